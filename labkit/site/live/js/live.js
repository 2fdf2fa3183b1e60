// <labkit-live models="panoptic_fpn_tiny mask2former_tiny">: an image to draw on, and the panoptic
// maps of models that run in the page. What they need is loaded when the reader comes near.

import { addImageInput } from "./image_input.js";
import { DrawingBoard } from "./drawing_board.js";
import { element } from "./elements.js";
import { loadModel } from "./exported.js";
import { encodeImage, encodeLayer } from "./layers.js";
import { ModelPanel } from "./model_panel.js";

const TITLES = { panoptic_fpn_tiny: "Panoptic FPN", mask2former_tiny: "Mask2Former" };
const QUIET = 700; // milliseconds without a change, then the result is announced
const NEAR = "400px"; // from the visible part of the page

class LabkitLive extends HTMLElement {
  connectedCallback() {
    if (this.childElementCount) return; // moved within the page
    this.names = this.getAttribute("models").split(" ");
    this.answers = 0; // finished
    const root = element("div", "labkit-live", this);
    this.parts = element("div", "labkit-live-parts", root);
    const inputs = element("div", "labkit-live-inputs", this.parts);
    this.status = element("p", "labkit-live-status", root, "The model is loading.");
    this.status.setAttribute("role", "status");
    this.error = element("p", "labkit-live-error", root);
    this.error.setAttribute("role", "alert");
    this.error.hidden = true;
    const coming = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      coming.disconnect();
      this.load(root, inputs).catch((error) => this.report(error.message));
    }, { rootMargin: NEAR });
    coming.observe(root);
  }

  async load(root, inputs) {
    const show = (image, name) => {
      this.report("");
      this.board.show(image);
      this.board.canvas.setAttribute("aria-label", `Your image, to draw on: ${name}`);
    };
    const first = addImageInput(inputs, root, show, (text) => this.report(text));
    this.board = new DrawingBoard(inputs, () => this.answer());
    const models = await Promise.all(this.names.map(loadModel));
    const results = element("div", "labkit-live-results", this.parts);
    this.addLegend(results, models[0].categories);
    this.viewer = element("div", "", results);
    const panels = element("div", "labkit-live-models", results);
    this.panels = models.map(
      (model) => new ModelPanel(panels, TITLES[model.name], model, () => this.answer(false)));
    show(await first, "first example");
    await this.answered; // the first run of a graph is slow
    this.answer();
  }

  addLegend(parent, categories) {
    const list = element("ul", "labkit-live-legend", parent);
    list.setAttribute("aria-label", "Colours of the classes");
    for (const { name, color } of categories) {
      const item = element("li", "", list);
      element("span", "labkit-live-swatch", item).style.background = `rgb(${color.join()})`;
      item.append(name);
    }
  }

  // Answer to a change of the image, or of the thresholds alone. While an answer is on its way,
  // more changes ask for one more only.
  answer(newImage = true) {
    this.changed = true;
    this.newImage ||= newImage;
    if (this.panels && !this.running) this.answered = this.run();
  }

  async run() {
    this.running = true;
    try {
      while (this.changed) {
        this.changed = false;
        if (this.newImage) await this.predict();
        else for (const panel of this.panels) panel.merge();
        await this.show();
      }
    } catch (error) {
      this.report(`The model cannot run here: ${error.message}`);
    } finally {
      this.running = false;
    }
  }

  async predict() {
    this.newImage = false;
    this.image = { ...this.board.image, rgb: this.board.image.rgb.slice() };
    for (const panel of this.panels) await panel.predict(this.image);
  }

  async show() {
    const image = this.image;
    const encoded = image === this.shown ? null : await encodeImage(image);
    const layers = await Promise.all(this.panels.map((panel) =>
      encodeLayer(panel.title, panel.result, panel.model.categories, image)));
    this.shown = image;
    this.draw(encoded, layers);
    for (const panel of this.panels) panel.show();
    this.announce();
    this.dataset.answers = String(++this.answers);
  }

  // In the segment viewer (labkit/widgets/viewer), which stands before these files.
  draw(image, layers) {
    if (this.drawn) {
      if (image) this.drawn.state._image = image; // drawn with the layers, not before them
      this.drawn.set("_layers", layers);
      return;
    }
    this.drawn = new OfflineModel({
      _image: image, _layers: layers, _movable: [], hidden: [],
      opacity: 0.6, show_things: true, show_stuff: true, show_names: true,
    });
    renderViewer({ model: this.drawn, el: this.viewer });
  }

  announce() {
    clearTimeout(this.announcing);
    this.announcing = setTimeout(() => {
      this.status.classList.add("labkit-live-spoken"); // seen, the table says the same
      this.status.textContent = this.panels.map((panel) => panel.inWords()).join(" ");
    }, QUIET);
  }

  report(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
  }
}

customElements.define("labkit-live", LabkitLive);
