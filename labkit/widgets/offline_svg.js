// Drawings of the explorers in a page without a kernel: SVG elements, frames, controls.
// make_element.js stands before this file.

const SVG = "http://www.w3.org/2000/svg";

// An SVG element with attributes.
function draw(tag, attributes, parent, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

// A drawing of width x height units under a title; clear() removes all but a background.
function panel(parent, title, width, height) {
  const figure = make("figure", "labkit-offline-panel", parent);
  const caption = make("figcaption", "", figure, title);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}` }, figure);
  return { figure, caption, svg };
}

// The outline of a box, with a dark line around it so that it is seen on any picture.
function frame(svg, [x1, y1, x2, y2], color, width, dashes = "") {
  const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
  const line = { fill: "none", "vector-effect": "non-scaling-stroke", "stroke-dasharray": dashes };
  const halo = color === "#000" ? "#fff" : "#000";
  draw("rect", { ...place, ...line, stroke: halo, "stroke-width": width + 1.4 }, svg);
  draw("rect", { ...place, ...line, stroke: color, "stroke-width": width }, svg);
}

function choice(parent, text, options, action) {
  const label = make("label", "", parent, `${text} `);
  const select = make("select", "", label);
  for (const option of options) make("option", "", select, option);
  select.addEventListener("change", () => action(select.selectedIndex));
  return select;
}

function range(parent, text, [low, high, step], action) {
  const label = make("label", "", parent, `${text} `);
  const input = make("input", "", label);
  Object.assign(input, { type: "range", min: low, max: high, step });
  const output = make("output", "", label);
  const show = () => (output.textContent = input.value);
  input.addEventListener("input", () => {
    show();
    action(Number(input.value));
  });
  return (value) => {
    input.value = value;
    show();
  };
}

function press(parent, text, action) {
  const button = make("button", "", parent, text);
  button.type = "button";
  button.addEventListener("click", action);
  return button;
}

// A point of the page in units of a drawing.
function pointIn(svg, event) {
  const point = new DOMPoint(event.clientX, event.clientY);
  const { x, y } = point.matrixTransform(svg.getScreenCTM().inverse());
  return [x, y];
}

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

// Let a drawing be focused, and call action(dx, dy, shift) for its arrow keys.
function arrowKeys(svg, name, action) {
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "application");
  svg.setAttribute("aria-label", name);
  svg.setAttribute("aria-roledescription", "interactive picture");
  svg.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    action(...arrow, event.shiftKey);
  });
}
