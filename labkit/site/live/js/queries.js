// Mask2Former: a class and a mask of each of a fixed set of queries: labkit/deploy/queries.py.

import { atImageSize } from "./images.js";
import { Result, VOID } from "./result.js";

// Class probabilities of the queries, the last class being "no object", and their masks.
export async function predictMaskClassification(run, batch, sizes, numThings, config) {
  const image = { type: "float32", data: batch, dims: [1, 3, ...sizes.padded] };
  const { class_logits, mask_logits } = await run("network", { image });
  const classes = class_logits.dims[2];
  const probability = softmax(class_logits.data, classes);
  return { probability, classes, maskOf: maskReader(mask_logits, sizes), numThings, config };
}

// Mask probabilities of a query at the image's size, computed when a threshold first keeps it.
function maskReader({ data, dims: [, , ...grid] }, sizes) {
  const area = grid[0] * grid[1], known = new Map();
  return (query) => {
    if (!known.has(query)) {
      const logits = data.subarray(query * area, (query + 1) * area);
      const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
      known.set(query, atImageSize(logits, 1, grid, sizes).map(sigmoid));
    }
    return known.get(query);
  };
}

// Along rows of n numbers.
function softmax(logits, n) {
  const out = new Float32Array(logits.length);
  for (let row = 0; row < logits.length; row += n) {
    const largest = Math.max(...logits.subarray(row, row + n));
    let sum = 0;
    for (let i = row; i < row + n; i++) sum += out[i] = Math.exp(logits[i] - largest);
    for (let i = row; i < row + n; i++) out[i] /= sum;
  }
  return out;
}

// The panoptic map: the largest product of class score and mask probability wins a pixel.
export function maskPanoptic({ probability, classes, maskOf, numThings, config }, [height, width]) {
  const area = height * width;
  const result = new Result(new Int32Array(area).fill(VOID));
  const kept = [];
  for (let query = 0; query * classes < probability.length; query++) {
    const row = probability.subarray(query * classes, (query + 1) * classes);
    const score = Math.max(...row), label = row.indexOf(score);
    if (label === classes - 1 || !(score > Math.fround(config.score_thresh))) continue;
    kept.push({ score, label, mask: maskOf(query) });
  }
  if (kept.length === 0) return result;
  const winners = new Int32Array(area);
  const best = new Float32Array(area).fill(-1);
  kept.forEach(({ score, mask }, k) => {
    for (let i = 0; i < area; i++) {
      const product = Math.fround(score * mask[i]);
      if (product > best[i]) [best[i], winners[i]] = [product, k];
    }
  });
  const idOfStuff = new Map();
  kept.forEach(({ score, label, mask }, k) => {
    let inMask = 0, won = 0, both = 0;
    for (let i = 0; i < area; i++) {
      const inside = mask[i] >= 0.5;
      if (inside) inMask++;
      if (winners[i] === k) won++;
      if (winners[i] === k && inside) both++;
    }
    const region = config.inside_mask ? both : won;
    if (inMask === 0 || region === 0 || won / inMask < config.overlap_thresh) return;
    let id = idOfStuff.get(label) ?? null;
    if (id === null) id = result.addSegment(label, label < numThings ? score : null);
    if (label >= numThings) idOfStuff.set(label, id);
    for (let i = 0; i < area; i++)
      if (winners[i] === k && (mask[i] >= 0.5 || !config.inside_mask)) result.panoptic[i] = id;
  });
  return result;
}
