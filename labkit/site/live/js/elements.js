// Elements of the page.

let numbers = 0;

export function element(tag, className, parent, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
}

export const uniqueId = (name) => `labkit-live-${name}-${++numbers}`;

export function button(text, parent, action) {
  const made = element("button", "", parent, text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

// A slider with its name and its value.
export function slider(text, parent, [low, high, step], value, action, show = String) {
  const label = element("label", "labkit-live-slider", parent);
  element("span", "", label, text);
  const input = element("input", "", label);
  Object.assign(input, { type: "range", min: low, max: high, step, value });
  const output = element("output", "", label, show(value));
  input.addEventListener("input", () => {
    output.textContent = show(Number(input.value));
    action(Number(input.value));
  });
  const set = (to) => {
    input.value = to;
    output.textContent = show(to);
  };
  return { input, set };
}
