// The canvas on which the reader draws, by pointer or by keys, and its tools.

import { Drawing, newGround, OUTLINES, randomColor } from "./drawing.js";
import { button, element, slider, uniqueId } from "./elements.js";
import { GROUNDS } from "./textures.js";

const KEY_STEP = 10; // pixels that an arrow key goes with Shift
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const HELP =
  "Click to place a shape; drag to paint ground. With the keyboard: arrow keys move the cross " +
  "(Shift: 10 pixels), Enter or Space draws there.";

export class DrawingBoard {
  // changed() is called after every change, also while a stroke goes on.
  constructor(parent, changed) {
    this.changed = changed;
    this.drawing = new Drawing();
    this.tool = "circle";
    this.radius = 16;
    this.cursor = null; // where the keys are, [x, y]
    this.pressed = null; // where the pointer was last, while it is down
    const figure = element("figure", "labkit-live-board", parent);
    element("figcaption", "", figure, "Your image");
    this.canvas = element("canvas", "", figure);
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "drawing area");
    const help = element("p", "labkit-live-help", figure, HELP);
    help.id = uniqueId("help");
    this.canvas.setAttribute("aria-label", "Your image, to draw on");
    this.canvas.setAttribute("aria-describedby", help.id);
    this.addTools(figure);
    this.listen();
    this.paint();
  }

  get image() {
    return this.drawing.image;
  }

  // Show another image, to be drawn on.
  show(image) {
    this.drawing.show(image);
    this.update();
  }

  addTools(parent) {
    const tools = element("fieldset", "labkit-live-tools", parent);
    element("legend", "", tools, "Draw with");
    const group = uniqueId("tool");
    for (const name of [...Object.keys(OUTLINES), ...Object.keys(GROUNDS)]) {
      const label = element("label", "", tools);
      const radio = element("input", "", label);
      Object.assign(radio, { type: "radio", name: group, checked: name === this.tool });
      radio.addEventListener("change", () => {
        this.tool = name;
        this.paint();
      });
      label.append(name);
    }
    const row = element("div", "labkit-live-row", parent);
    slider("size", row, [3, 40, 1], this.radius, (value) => {
      this.radius = value;
      this.paint();
    });
    this.addColor(row);
    button("undo", row, () => {
      this.drawing.undo();
      this.update();
    });
    button("new ground", row, () => this.show(newGround()));
  }

  addColor(parent) {
    const label = element("label", "", parent, "colour ");
    const select = element("select", "", label);
    for (const name of ["of each shape by chance", "chosen:"])
      element("option", "", select, name);
    const input = element("input", "", parent);
    Object.assign(input, { type: "color", value: "#c83232", disabled: true });
    input.setAttribute("aria-label", "chosen colour");
    select.addEventListener("change", () => (input.disabled = select.selectedIndex === 0));
    this.color = () =>
      input.disabled
        ? randomColor()
        : [1, 3, 5].map((at) => parseInt(input.value.slice(at, at + 2), 16));
  }

  // Draw with the tool, along a way; a shape is placed at its end.
  draw(from, to) {
    if (this.tool in GROUNDS) this.drawing.brush(this.tool, from, to, this.radius);
    else this.drawing.stamp(this.tool, to, this.radius, this.color());
  }

  listen() {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.image.width - 0.5;
      return [x, ((event.clientY - box.top) / box.height) * this.image.height - 0.5];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.cursor = null;
      this.drawing.remember();
      this.pressed = place(event);
      this.draw(this.pressed, this.pressed);
      this.canvas.setPointerCapture(event.pointerId);
      this.update();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.pressed || !(this.tool in GROUNDS)) return;
      const to = place(event);
      this.draw(this.pressed, to);
      this.pressed = to;
      this.update();
    });
    for (const name of ["pointerup", "pointercancel"])
      this.canvas.addEventListener(name, () => {
        if (!this.pressed) return;
        this.pressed = null;
        this.update();
      });
    this.canvas.addEventListener("focus", () => {
      if (this.canvas.matches(":focus-visible")) this.moveCursor([0, 0], 1);
    });
    this.canvas.addEventListener("blur", () => {
      this.cursor = null;
      this.paint();
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) this.moveCursor(arrow, event.shiftKey ? KEY_STEP : 1);
    else if (event.key === "Enter" || event.key === " ") {
      this.moveCursor([0, 0], 1);
      this.drawing.remember();
      this.draw(this.cursor, this.cursor);
      this.update();
    } else return;
    event.preventDefault();
  }

  moveCursor([dx, dy], step) {
    const { width, height } = this.image;
    const [x, y] = this.cursor ?? [width >> 1, height >> 1];
    const inside = (value, side) => Math.min(Math.max(value, 0), side - 1);
    this.cursor = [inside(x + dx * step, width), inside(y + dy * step, height)];
    this.paint();
  }

  update() {
    this.paint();
    this.changed();
  }

  paint() {
    const { width, height, rgb } = this.image;
    Object.assign(this.canvas, { width, height });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    const context = this.canvas.getContext("2d");
    const picture = new ImageData(width, height);
    for (let i = 0, at = 0; at < rgb.length; i += 4, at += 3)
      picture.data.set([rgb[at], rgb[at + 1], rgb[at + 2], 255], i);
    context.putImageData(picture, 0, 0);
    if (this.cursor) this.paintCursor(context);
  }

  // A cross, and the circle within which the tool draws.
  paintCursor(context) {
    const [x, y] = this.cursor.map((value) => value + 0.5);
    for (const [color, width] of [["#000", 2], ["#fff", 1]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, this.radius, 0, 2 * Math.PI);
      for (const [dx, dy] of Object.values(ARROWS)) {
        context.moveTo(x + dx, y + dy);
        context.lineTo(x + 4 * dx, y + 4 * dy);
      }
      context.stroke();
    }
  }
}
