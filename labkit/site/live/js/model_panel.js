// One model's part of the page: its thresholds, its segments, and the time that it took.

import { element, slider, button } from "./elements.js";

const OVERLAP = {
  rcnn: "largest hidden part of an object",
  mask_classification: "smallest part of a mask that must win",
};

export class ModelPanel {
  // changed() is called when a threshold has changed.
  constructor(parent, title, model, changed) {
    this.title = title;
    this.model = model;
    this.thresholds = { ...model.thresholds };
    const root = element("section", "labkit-live-model", parent);
    root.setAttribute("aria-label", title);
    element("p", "labkit-live-title", root, title);
    this.addSliders(root, changed);
    this.times = element("p", "labkit-live-times", root);
    const table = element("table", "", root);
    element("caption", "", table, `Segments of ${title}`);
    const head = element("tr", "", element("thead", "", table));
    for (const name of ["segment", "score", "area"])
      element("th", "", head, name).scope = "col";
    this.body = element("tbody", "", table);
  }

  addSliders(root, changed) {
    const two = (value) => value.toFixed(2);
    const add = (text, name) =>
      slider(text, root, [0, 1, 0.05], this.thresholds[name], (value) => {
        this.thresholds[name] = value;
        changed();
      }, two);
    const score = add("score threshold", "score_thresh");
    const overlap = add(OVERLAP[this.model.description.family], "overlap_thresh");
    button("the model's own thresholds", root, () => {
      Object.assign(this.thresholds, this.model.thresholds);
      score.set(this.thresholds.score_thresh);
      overlap.set(this.thresholds.overlap_thresh);
      changed();
    });
  }

  // Run the network on an image, and make the map.
  async predict(image) {
    this.raw = await this.model.predict(image);
    this.merge();
  }

  // Make the map again, with the thresholds as they are now.
  merge() {
    const start = performance.now();
    this.result = this.model.panoptic(this.raw, this.thresholds);
    this.mergeTime = performance.now() - start;
  }

  get total() {
    const { times, steps } = this.raw;
    return Object.values(times).reduce((a, b) => a + b, 0) + steps + this.mergeTime;
  }

  show() {
    const { times, steps } = this.raw;
    const ms = (value) => `${Math.round(value)} ms`;
    const parts = Object.entries(times).map(([graph, time]) => `${graph}.onnx ${ms(time)}`);
    parts.push(`JavaScript between them ${ms(steps + this.mergeTime)}`);
    this.times.textContent = `${ms(this.total)}: ${parts.join(", ")}`;
    const { panoptic, segments } = this.result;
    const areas = new Array(segments.length + 1).fill(0);
    for (const id of panoptic) areas[id]++;
    this.body.replaceChildren();
    const row = (name, color, score, area) => {
      const line = element("tr", "", this.body);
      const head = element("th", "", line);
      head.scope = "row";
      element("span", "labkit-live-swatch", head).style.background = color;
      head.append(name);
      element("td", "", line, score);
      element("td", "", line, `${area} px (${((100 * area) / panoptic.length).toFixed(0)} %)`);
    };
    for (const { id, label, score } of segments) {
      const { name, isthing, color } = this.model.categories[label];
      const text = score === undefined ? "–" : score.toFixed(2);
      row(isthing ? `${name} ${id}` : name, `rgb(${color.join()})`, text, areas[id]);
    }
    if (areas[0]) row("void", "transparent", "–", areas[0]);
  }

  inWords() {
    const name = ({ label, score }) =>
      this.model.categories[label].name + (score === undefined ? "" : ` ${score.toFixed(2)}`);
    const { segments } = this.result;
    const list = segments.map(name).join(", ");
    const count = segments.length === 1 ? "1 segment" : `${segments.length} segments`;
    return `${this.title}: ${count}${list && `: ${list}`}.`;
  }
}
