// The segment viewer in a page without a kernel: it needs none.
function start(el, state) {
  render({ el, model: new OfflineModel(state) });
}
