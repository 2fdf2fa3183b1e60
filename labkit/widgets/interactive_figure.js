// A picture that answers: clicks, a box dragged or moved by keys, all in pixels of the picture.
// What a drag will do shows at once as a frame on top; the picture itself is always the kernel's.

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};
const STILL = 4; // a pointer that moves less, in pixels of the screen, clicks
const GRIP = 9; // this near to a corner of the box, in pixels of the screen, a drag resizes it
let views = 0;

function element(name, parent, className) {
  const made = document.createElement(name);
  made.className = className;
  parent.append(made);
  return made;
}

function dataUrl(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return `data:image/png;base64,${btoa(text)}`;
}

const inside = ([x, y], [x1, y1, x2, y2]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
const sorted = ([ax, ay], [bx, by]) => [
  Math.min(ax, bx),
  Math.min(ay, by),
  Math.max(ax, bx),
  Math.max(ay, by),
];

// One event at a time is on its way; what is pressed meanwhile adds up, so that a key held down
// does not leave the kernel with a queue of pictures that nobody will see.
function sender(model) {
  let busy = false;
  let waiting = [];
  const next = () => {
    busy = waiting.length > 0;
    if (busy) model.send(waiting.shift());
  };
  const done = (message) => {
    if (message?.kind === "done") next();
  };
  model.on("msg:custom", done);
  return {
    send(event) {
      const last = waiting.at(-1);
      if (last && event.kind === "move" && last.kind === "move" && last.resize === event.resize) {
        last.dx += event.dx;
        last.dy += event.dy;
      } else {
        waiting.push(event);
      }
      if (!busy) next();
    },
    close: () => model.off("msg:custom", done),
  };
}

export default {
  render({ model, el }) {
    const root = element("div", el, "labkit-canvas");
    root.tabIndex = 0;
    root.setAttribute("role", "application");
    root.setAttribute("aria-roledescription", "interactive picture");
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves the keys to us
    const image = element("img", root, "labkit-canvas-picture");
    image.draggable = false;
    const frame = element("div", root, "labkit-canvas-frame");
    frame.hidden = true;
    const help = element("div", el, "labkit-canvas-help");
    help.id = `labkit-canvas-help-${++views}`;
    root.setAttribute("aria-describedby", help.id);

    const events = sender(model);
    const show = () => {
      if (model.get("picture")?.byteLength) image.src = dataUrl(model.get("picture"));
      image.alt = model.get("description");
      root.setAttribute("aria-label", model.get("label"));
      help.textContent = model.get("help");
    };
    const names = ["picture", "description", "label", "help"];
    for (const name of names) model.on(`change:${name}`, show);
    show();

    const scale = () => image.naturalWidth / image.getBoundingClientRect().width;
    const place = (event) => {
      const rect = image.getBoundingClientRect();
      return [(event.clientX - rect.left) * scale(), (event.clientY - rect.top) * scale()];
    };

    // What a drag that begins at a point does: in which area, and from where the pointer is to a box.
    const drag = (start) => {
      const reach = GRIP * scale();
      for (const [area, [x1, y1, x2, y2]] of model.get("boxes").entries()) {
        for (const [x, y] of [[x1, y1], [x2, y1], [x1, y2], [x2, y2]]) {
          if (Math.hypot(x - start[0], y - start[1]) > reach) continue;
          const opposite = [x1 + x2 - x, y1 + y2 - y];
          const cursor = (x === x1) === (y === y1) ? "nwse-resize" : "nesw-resize";
          return { area, cursor, box: (to) => sorted(opposite, to) };
        }
        if (inside(start, [x1, y1, x2, y2])) {
          const box = (to) => {
            const [dx, dy] = [to[0] - start[0], to[1] - start[1]];
            return [x1 + dx, y1 + dy, x2 + dx, y2 + dy];
          };
          return { area, cursor: "move", box };
        }
      }
      const area = model.get("areas").findIndex((one) => inside(start, one));
      return area < 0 ? null : { area, cursor: "crosshair", box: (to) => sorted(start, to) };
    };

    let pressed = null; // { start, at: where on the screen, action, moving }
    const stop = () => {
      pressed = null;
      frame.hidden = true;
    };
    root.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      const start = place(event);
      pressed = { start, at: [event.clientX, event.clientY], action: drag(start), moving: false };
      root.setPointerCapture(event.pointerId);
    });
    root.addEventListener("pointermove", (event) => {
      const to = place(event);
      if (!pressed) {
        root.style.cursor = drag(to)?.cursor ?? "default";
        return;
      }
      const way = Math.hypot(event.clientX - pressed.at[0], event.clientY - pressed.at[1]);
      if (way >= STILL) pressed.moving = true;
      if (!pressed.moving || !pressed.action) return;
      const [x1, y1, x2, y2] = pressed.action.box(to).map((v) => v / scale());
      Object.assign(frame.style, {
        left: `${x1}px`,
        top: `${y1}px`,
        width: `${x2 - x1}px`,
        height: `${y2 - y1}px`,
      });
      frame.hidden = false;
    });
    root.addEventListener("pointerup", (event) => {
      if (!pressed) return;
      const { start, action, moving } = pressed;
      stop();
      if (!moving) events.send({ kind: "click", x: start[0], y: start[1] });
      else if (action) events.send({ kind: "box", area: action.area, box: action.box(place(event)) });
    });
    root.addEventListener("pointercancel", stop);
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") stop();
      const arrow = ARROWS[event.key];
      if (!arrow || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault(); // no scrolling
      event.stopPropagation();
      events.send({ kind: "move", dx: arrow[0], dy: arrow[1], resize: event.shiftKey });
    });

    return () => {
      events.close();
      for (const name of names) model.off(`change:${name}`, show);
    };
  },
};
