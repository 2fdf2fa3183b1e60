// The frame of an app: a status line, an error panel, and the keyboard kept from JupyterLab.
// Everything here is looked up in the app's own element, so two views of an app do not meet.

const FOCUSABLE =
  "a[href], button, input, select, textarea, summary, [tabindex], [contenteditable=true]";

// JupyterLab looks for this attribute on the focused element itself, not on its ancestors.
function keepKeys(app) {
  for (const element of app.querySelectorAll(FOCUSABLE)) {
    if (!element.dataset.lmSuppressShortcuts) element.dataset.lmSuppressShortcuts = "true";
  }
}

// The slider handle is what has the focus, and ipywidgets leaves it without a name.
function nameHandles(app) {
  for (const handle of app.querySelectorAll(".noUi-handle")) {
    const label = handle.closest(".jupyter-widgets")?.querySelector(".widget-label");
    const name = label?.textContent.trim();
    if (name && handle.getAttribute("aria-label") !== name) handle.setAttribute("aria-label", name);
  }
}

function part(role, name) {
  const element = document.createElement("div");
  element.setAttribute("role", role);
  element.className = name;
  return element;
}

export default {
  render({ model, el }) {
    const status = part("status", "labkit-status");
    const error = part("alert", "labkit-error");
    el.append(status, error);

    let app = null;
    const show = () => {
      status.textContent = model.get("status");
      error.textContent = model.get("error");
      error.hidden = !model.get("error");
      if (app) app.dataset.ready = String(model.get("ready"));
    };
    for (const name of ["status", "error", "ready"]) model.on(`change:${name}`, show);

    let waiting = 0;
    const seen = new MutationObserver(() => {
      keepKeys(app);
      nameHandles(app);
    });
    const attach = () => {
      app = el.closest(".labkit-app");
      if (!app) {
        waiting = setTimeout(attach, 20); // the page puts an app together from the inside out
        return;
      }
      keepKeys(app);
      nameHandles(app);
      const filter = ["tabindex", "contenteditable", "href", "class"];
      seen.observe(app, { childList: true, subtree: true, attributes: true, attributeFilter: filter });
      show();
    };
    show();
    attach();

    return () => {
      clearTimeout(waiting);
      seen.disconnect();
      for (const name of ["status", "error", "ready"]) model.off(`change:${name}`, show);
    };
  },
};
