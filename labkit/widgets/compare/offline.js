// The comparison in a page without a kernel: every threshold and both kinds of colours were
// computed before; here one of them is shown.
function start(el, { image, thresholds, states, colors }) {
  const controls = make("div", "labkit-offline-row", el);
  const choice = make("label", "", controls, "score ");
  const select = make("select", "", choice);
  for (const { name } of thresholds) make("option", "", select, name);
  const box = make("label", "", controls);
  const outcomes = make("input", "", box);
  outcomes.type = "checkbox";
  box.append("difference to the ground truth");
  box.hidden = states[0].length === 1;
  const legend = make("div", "", el);
  const viewer = make("div", "", el);
  const table = make("div", "labkit-offline-scroll", el);
  const status = make("p", "labkit-status", el);
  status.setAttribute("role", "status");

  const layersNow = () => {
    const { layers, html } = states[select.selectedIndex][Number(outcomes.checked)];
    table.innerHTML = html;
    legend.innerHTML = outcomes.checked ? colors : "";
    return layers;
  };
  const model = new OfflineModel({
    _image: image, _layers: layersNow(), _movable: [], hidden: [],
    opacity: 0.6, show_things: true, show_stuff: true, show_names: true,
  });
  const show = () => {
    model.set("_layers", layersNow());
    status.textContent = thresholds[select.selectedIndex].meaning;
    el.dataset.ready = String(Number(el.dataset.ready ?? 0) + 1);
  };
  select.addEventListener("change", show);
  outcomes.addEventListener("change", show);
  render({ el: viewer, model });
}
