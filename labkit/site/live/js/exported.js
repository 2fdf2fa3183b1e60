// An exported model, run by onnxruntime in the page: labkit/deploy/exported.py.

import { asset, jsonAsset, loadScript } from "./assets.js";
import { preprocess } from "./images.js";
import { maskPanoptic, predictMaskClassification } from "./queries.js";
import { merge, predictRcnn } from "./rcnn.js";

// How a family predicts, and how its panoptic map follows from that and two thresholds.
const FAMILIES = {
  rcnn: { predict: predictRcnn, panoptic: merge },
  mask_classification: { predict: predictMaskClassification, panoptic: maskPanoptic },
};

let runtime = null; // a promise of onnxruntime, shared by all models of a page

async function startRuntime() {
  const [wasm, loader] = await Promise.all([
    asset("ort-wasm-simd-threaded.wasm"),
    asset("ort-wasm-simd-threaded.mjs"),
    loadScript("ort.wasm.min.js"),
  ]);
  const settings = window.ort.env.wasm;
  settings.numThreads = 1; // more need headers that a plain server does not send
  settings.wasmBinary = wasm.buffer;
  const module = new Blob([loader], { type: "text/javascript" });
  settings.wasmPaths = { mjs: URL.createObjectURL(module) };
  return window.ort;
}

class ExportedModel {
  constructor(name, description, ort, graphs) {
    Object.assign(this, { name, description, ort, graphs });
    this.family = FAMILIES[description.family];
    this.categories = description.categories;
  }

  // Run the graphs on an RGB image { height, width, rgb }. The panoptic maps of different
  // thresholds all follow from what this returns.
  async predict(image) {
    const start = performance.now(), times = {};
    const run = async (graph, inputs) => {
      const began = performance.now();
      const outputs = await this.run(graph, inputs);
      times[graph] = performance.now() - began;
      return outputs;
    };
    const { batch, sizes } = preprocess(image, this.description.preprocessing);
    const numThings = this.categories.filter((category) => category.isthing).length;
    const raw = await this.family.predict(run, batch, sizes, numThings, this.description.config);
    const graphs = Object.values(times).reduce((a, b) => a + b, 0);
    return { ...raw, size: sizes.image, times, steps: performance.now() - start - graphs };
  }

  // The panoptic map with thresholds { score_thresh, overlap_thresh } instead of the model's own.
  panoptic(raw, thresholds = {}) {
    return this.family.panoptic({ ...raw, config: { ...raw.config, ...thresholds } }, raw.size);
  }

  // The thresholds that the model was published with.
  get thresholds() {
    const config = this.description.config;
    const { score_thresh, overlap_thresh } = config.merge ?? config;
    return { score_thresh, overlap_thresh };
  }

  // Run a graph: its outputs by name. Inputs that it does not have are left out.
  async run(graph, inputs) {
    const session = this.graphs[graph];
    const known = session.inputNames.map((name) => {
      const { type, data, dims } = inputs[name];
      return [name, new this.ort.Tensor(type, data, dims)];
    });
    return session.run(Object.fromEntries(known));
  }
}

const models = new Map(); // by name: a promise

// Open the model of that name, once for a page.
export function loadModel(name) {
  if (!models.has(name)) models.set(name, open(name));
  return models.get(name);
}

async function open(name) {
  runtime ??= startRuntime();
  const description = await jsonAsset(`${name}/model.json`);
  const files = Object.entries(description.graphs);
  const contents = await Promise.all(files.map(([, { file }]) => asset(`${name}/${file}`)));
  const ort = await runtime;
  const graphs = {};
  for (const [i, [graph]] of files.entries())
    graphs[graph] = await ort.InferenceSession.create(contents[i], { graphOptimizationLevel: "all" });
  return new ExportedModel(name, description, ort, graphs);
}
