// The segment viewer: controls, panels, pointer, keyboard. `image` and the maps of the panels are
// made by viewer_pixels.js, which stands before this file, as make_element.js does.

const STEP = 10; // pixels that an arrow key goes with Shift
const NARROW = 200, WIDE = 400, GAP = 14; // of a panel and between panels, in pixels of the page

function render({ model, el }) {
  const root = make("div", "labkit-viewer", el);
  const bar = make("div", "labkit-viewer-bar", root);
  const grid = make("div", "labkit-viewer-panels", root);
  const spoken = make("div", "labkit-viewer-spoken", root); // read out, not seen
  spoken.setAttribute("aria-live", "polite");
  let image = null, panels = [], version = 0, painted = 0;
  let active = 0, hover = null, drag = null, drawing = 0, telling = 0, speaking = 0;
  const moves = { dx: 0, dy: 0, busy: false };
  const listening = [];
  const listen = (name, listener) => {
    model.on(`change:${name}`, listener);
    listening.push([`change:${name}`, listener]);
  };
  const tell = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };

  // Controls.
  const keep = (element) => {
    element.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves the keys to this element
    return element;
  };
  const labelled = (text, type) => {
    const label = make("label", "", bar, `${text} `);
    const input = keep(make("input", "", label));
    input.type = type;
    return input;
  };
  const slider = labelled("opacity", "range");
  Object.assign(slider, { min: 0, max: 1, step: 0.05 });
  slider.addEventListener("input", () => tell("opacity", Number(slider.value)));
  const boxes = ["things", "stuff", "names"].map((kind) => {
    const box = labelled(kind, "checkbox");
    box.addEventListener("change", () => tell(`show_${kind}`, box.checked));
    return [`show_${kind}`, box];
  });
  make("span", "labkit-viewer-hint", bar);
  const showControls = () => {
    slider.value = model.get("opacity");
    for (const [name, box] of boxes) box.checked = model.get(name);
    const movable = (model.get("_movable") ?? []).length > 0;
    bar.querySelector(".labkit-viewer-hint").textContent =
      "Point at a segment, or use the arrow keys (Shift: 10 pixels). Click or Enter selects" +
      (movable ? " and then drag or arrow keys move it; Escape lets go." : ".") +
      " + and − change the opacity.";
  };

  // Pictures.
  const isHidden = (k, segment) =>
    (model.get("hidden") ?? []).some(([layer, id]) => layer === k && id === segment.id);
  const isVisible = (k) => (segment) =>
    model.get(segment.thing ? "show_things" : "show_stuff") && !isHidden(k, segment);
  const paintAll = () => {
    panels.forEach((panel, k) => {
      if (!panel.map) return;
      paint(panel, image, model.get("opacity"), isVisible(k));
      panel.names.replaceChildren();
      if (!model.get("show_names")) return;
      for (const segment of panel.layer.segments.filter(isVisible(k))) {
        if (!segment.place) continue;
        const name = make("span", "", panel.names, segment.text);
        name.style.left = `${(100 * segment.place[0]) / image.W}%`;
        name.style.top = `${(100 * segment.place[1]) / image.H}%`;
      }
    });
    // After all were written, so that they are measured at once: none is cut off at the border.
    const names = Array.from(grid.querySelectorAll(".labkit-viewer-names span"));
    const halves = names.map((name) => name.offsetWidth / 2 + 1);
    names.forEach((name, i) => {
      name.style.left = `clamp(${halves[i]}px, ${name.style.left}, calc(100% - ${halves[i]}px))`;
    });
    point();
    root.dataset.ready = String(++painted);
  };
  const build = (layer, k) => {
    const figure = make("figure", "", grid);
    make("figcaption", "", figure, layer.title);
    const panel = { layer, figure, bands: new Map() };
    if (layer.message !== null) {
      make("div", "labkit-viewer-message", figure, layer.message);
      return panel;
    }
    const stage = make("div", "labkit-viewer-stage", figure);
    panel.canvas = keep(make("canvas", "labkit-viewer-picture", stage));
    panel.overlay = make("canvas", "labkit-viewer-overlay", stage);
    panel.names = make("div", "labkit-viewer-names", stage);
    panel.names.setAttribute("aria-hidden", "true");
    panel.readout = make("div", "labkit-viewer-readout", figure);
    panel.canvas.tabIndex = 0;
    panel.canvas.setAttribute("role", "application");
    panel.canvas.setAttribute("aria-roledescription", "picture with segments");
    attend(panel.canvas, k);
    return panel;
  };
  // As few rows as fit, and in them as few columns: the panels are as large as the rows allow.
  const arrange = () => {
    if (!image || !panels.length || !grid.clientWidth) return;
    const fitting = Math.max(1, Math.floor((grid.clientWidth + GAP) / (NARROW + GAP)));
    const columns = Math.ceil(panels.length / Math.ceil(panels.length / fitting));
    const widest = `${Math.max(image.w, WIDE)}px`;
    grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, ${widest}))`;
  };
  const watching = new ResizeObserver(arrange);
  watching.observe(grid);
  const load = async () => {
    const mine = ++version;
    try {
      const layers = model.get("_layers"), encoded = model.get("_image");
      const picture = image?.encoded === encoded ? image : await decodeImage(encoded);
      const maps = await Promise.all(layers.map((layer) => decodeLayer(layer, picture)));
      if (mine !== version) return; // newer layers have come meanwhile
      picture.encoded = encoded;
      image = picture;
      const shape = (list) => JSON.stringify(list.map((l) => [l.title, l.message]));
      if (shape(panels.map((p) => p.layer)) !== shape(layers)) {
        grid.replaceChildren();
        panels = layers.map(build); // otherwise the elements stay, and with them the focus
      }
      panels.forEach((panel, k) => {
        Object.assign(panel, { layer: layers[k], map: maps[k] });
        panel.bands.clear();
        if (!panel.map) return;
        panel.canvas.setAttribute("aria-label", layers[k].summary);
        for (const canvas of [panel.canvas, panel.overlay])
          if (canvas.width !== image.w || canvas.height !== image.h)
            Object.assign(canvas, { width: image.w, height: image.h });
      });
      arrange();
      paintAll();
    } catch (error) {
      grid.replaceChildren();
      make("div", "labkit-viewer-message", grid, `The pictures cannot be drawn: ${error}`);
    }
  };

  // Pointing: the same pixel in all panels, and the segments that belong together.
  const at = (panel, [x, y]) => panel.map.numbers[y * image.S * image.w + x * image.S];
  const outlined = (k) => {
    const own = panels[active]?.map && panels[active].layer.segments[at(panels[active], hover) - 1];
    const partners = own && own.match !== null && k !== active
      ? panels[k].layer.segments.flatMap((s, n) => (s.match === own.match ? [n + 1] : []))
      : [];
    return partners.length ? partners : [at(panels[k], hover)].filter((n) => n > 0);
  };
  const drawBand = (panel, context, number, kind) => {
    const key = `${kind} ${number}`, color = kind === "chosen" ? [255, 221, 0] : [0, 0, 0];
    if (!panel.bands.has(key)) panel.bands.set(key, band(panel, image, number, color));
    const made = panel.bands.get(key);
    if (made) context.drawImage(made.canvas, made.left, made.top);
  };
  const cross = (context) => {
    const { S, w, h } = image, x = (hover[0] + 0.5) * S, y = (hover[1] + 0.5) * S;
    const gap = Math.max(3, w / 80), arm = Math.max(9, w / 32);
    for (const [color, width] of [["#000", 3], ["#fff", 1]]) {
      context.strokeStyle = color;
      context.lineWidth = width * Math.max(1, w / 500);
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * gap, y + dy * gap);
        context.lineTo(x + dx * arm, y + dy * arm);
      }
      context.stroke();
    }
  };
  const point = () => {
    drawing = 0;
    const chosen = model.get("selected");
    panels.forEach((panel, k) => {
      if (!panel.map) return;
      const context = panel.overlay.getContext("2d");
      context.clearRect(0, 0, image.w, image.h);
      if (hover)
        for (const n of outlined(k)) drawBand(panel, context, n, "hovered");
      if (chosen && chosen[0] === k) {
        const n = panel.layer.segments.findIndex((s) => s.id === chosen[1]) + 1;
        if (n) drawBand(panel, context, n, "chosen");
      }
      if (hover) cross(context);
      panel.readout.textContent = hover
        ? panel.layer.segments[at(panel, hover) - 1]?.description ?? "nothing"
        : "";
    });
  };
  const pointLater = () => {
    if (!drawing) drawing = requestAnimationFrame(point);
  };
  const goTo = (k, position) => {
    active = k;
    hover = position;
    pointLater();
    if (!telling)
      telling = setTimeout(() => { // the kernel need not hear of every pixel
        telling = 0;
        tell("hovered", hover);
      }, 80);
  };
  const speak = () => {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      const say = (p) => `${p.layer.title}: ${p.readout?.textContent ?? p.layer.message}`;
      spoken.textContent = hover ? `${hover[0]}, ${hover[1]}. ${panels.map(say).join(". ")}` : "";
    }, 300);
  };

  // Selecting and moving.
  const canMove = (k) => (model.get("_movable") ?? []).includes(k);
  const select = (k) => {
    const segment = panels[k].layer.segments[at(panels[k], hover) - 1];
    tell("selected", segment ? [k, segment.id] : null);
    return segment;
  };
  const flush = () => {
    const chosen = model.get("selected");
    if (moves.busy || !chosen || (!moves.dx && !moves.dy)) return;
    const [layer, id] = chosen;
    moves.busy = true;
    model.send({ kind: "move", layer, id, dx: moves.dx, dy: moves.dy });
    moves.dx = moves.dy = 0;
  };
  const move = (dx, dy) => {
    moves.dx += dx;
    moves.dy += dy;
    flush();
  };
  const inside = (x, y) => [
    Math.min(image.W - 1, Math.max(0, x)),
    Math.min(image.H - 1, Math.max(0, y)),
  ];
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function attend(canvas, k) {
    const pixel = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * image.W);
      return inside(x, Math.floor(((event.clientY - box.top) / box.height) * image.H));
    };
    canvas.addEventListener("pointermove", (event) => {
      const position = pixel(event);
      if (drag) {
        move(position[0] - drag[0], position[1] - drag[1]);
        drag = position;
      }
      goTo(k, position);
    });
    canvas.addEventListener("pointerdown", (event) => {
      goTo(k, pixel(event));
      Object.assign(moves, { dx: 0, dy: 0 });
      if (!select(k) || !canMove(k)) return;
      drag = hover;
      canvas.setPointerCapture(event.pointerId);
    });
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => (drag = null));
    canvas.addEventListener("pointerleave", () => {
      if (!drag && document.activeElement !== canvas) goTo(k, null);
    });
    canvas.addEventListener("focus", () => {
      if (!hover) goTo(k, [image.W >> 1, image.H >> 1]);
      else goTo(k, hover);
      speak();
    });
    canvas.addEventListener("blur", () => {
      if (!drag) goTo(k, null);
    });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrow = ARROWS[event.key], chosen = model.get("selected");
      hover ??= [image.W >> 1, image.H >> 1];
      if (arrow) {
        const [dx, dy] = arrow.map((d) => d * (event.shiftKey ? STEP : 1));
        if (chosen && chosen[0] === k && canMove(k)) move(dx, dy);
        goTo(k, inside(hover[0] + dx, hover[1] + dy));
      } else if (event.key === "Enter" || event.key === " ") {
        Object.assign(moves, { dx: 0, dy: 0 });
        select(k);
      } else if (event.key === "Escape") tell("selected", null);
      else if (event.key === "+" || event.key === "=" || event.key === "-") {
        const opacity = model.get("opacity") + (event.key === "-" ? -0.1 : 0.1);
        tell("opacity", Math.round(10 * Math.min(1, Math.max(0, opacity))) / 10);
      } else return;
      event.preventDefault();
      event.stopPropagation();
      speak();
    });
  }

  listen("_image", load);
  listen("_layers", load);
  listen("_movable", showControls);
  listen("_moves", () => {
    moves.busy = false;
    flush();
  });
  for (const name of ["opacity", "show_things", "show_stuff", "show_names"])
    listen(name, showControls);
  for (const name of ["opacity", "show_things", "show_stuff", "show_names", "hidden"])
    listen(name, () => image && paintAll());
  listen("selected", pointLater);
  listen("hovered", () => {
    const told = model.get("hovered");
    if (telling || String(told) === String(hover)) return; // what this view said itself
    hover = told;
    pointLater();
  });
  showControls();
  load();
  return () => {
    version++; // what is being decoded comes too late
    watching.disconnect();
    cancelAnimationFrame(drawing);
    clearTimeout(telling);
    clearTimeout(speaking);
    for (const [event, listener] of listening) model.off(event, listener);
  };
}

export default { render };
