// Panoptic FPN: proposals, detections, masks, and the merge with stuff: labkit/deploy/rcnn.py.

import { clip, decode, gridAnchors, largerThan, nms } from "./boxes.js";
import { argmax, atImageSize, paste } from "./images.js";
import { argsortDescending, IGNORE, Result, VOID } from "./result.js";

const BOX_WEIGHTS = [10, 10, 5, 5];
const NO_WEIGHTS = [1, 1, 1, 1];

// All that does not depend on the thresholds of the merge: detections with their masks, and the
// semantic map.
export async function predictRcnn(run, batch, sizes, numThings, config) {
  const maps = await run("features", { image: floats(batch, [1, 3, ...sizes.padded]) });
  const proposals = propose(maps, sizes, config.rpn);
  const scored = await scoreProposals(run, maps, proposals, sizes, config.roi_heads);
  const detections = detect(scored, config.roi_heads);
  const masks = await predictMasks(run, maps, detections);
  const pasted = pasteMasks(detections, masks, sizes);
  const logits = maps.sem_seg_logits;
  const [, channels, ...grid] = logits.dims;
  const best = argmax(atImageSize(logits.data, channels, grid, sizes), channels);
  const semantic = best.map((channel) => config.label_of[channel]);
  return { ...detections, masks: pasted, semantic, numThings, config: config.merge };
}

const floats = (data, dims) => ({ type: "float32", data, dims });

// Proposals, a flat array of boxes, from objectness and deltas of each level.
function propose(maps, { image, padded }, rpn) {
  const boxes = [], scores = [], levels = [];
  rpn.levels.forEach((name, level) => {
    const stride = rpn.strides[level];
    const grid = padded.map((side) => Math.ceil(side / stride));
    const anchors = gridAnchors(rpn.anchors[level], grid, [stride, stride]);
    const objectness = maps[`objectness_${name}`].data, deltas = maps[`deltas_${name}`].data;
    for (const i of argsortDescending(objectness).slice(0, rpn.pre_nms_top_n)) {
      const box = clip(decode(deltas, 4 * i, anchors, 4 * i, NO_WEIGHTS), image, rpn.plus_one);
      if (!Number.isFinite(objectness[i]) || !largerThan(box, rpn.min_size)) continue;
      boxes.push(...box);
      scores.push(objectness[i]);
      levels.push(level);
    }
  });
  const keep = nms(boxes, scores, levels, rpn.nms_thresh).slice(0, rpn.post_nms_top_n);
  return Float32Array.from(keep.flatMap((i) => boxes.slice(4 * i, 4 * i + 4)));
}

// Boxes, scores and labels of all pairs of a proposal and a thing above the threshold.
async function scoreProposals(run, maps, proposals, { image }, roi) {
  const found = { boxes: [], scores: [], labels: [] };
  const count = proposals.length / 4;
  if (count === 0) return found;
  const scored = await run("boxes", { boxes: floats(proposals, [count, 4]), ...maps });
  const probabilities = scored.probabilities.data, deltas = scored.deltas.data;
  const things = deltas.length / proposals.length; // the probabilities also have the background
  for (let i = 0; i < count; i++)
    for (let label = 0; label < things; label++) {
      const score = probabilities[i * (things + 1) + label];
      if (!(score > Math.fround(roi.score_thresh))) continue;
      const box = decode(deltas, 4 * (i * things + label), proposals, 4 * i, BOX_WEIGHTS);
      const clipped = clip(box, image, roi.plus_one);
      if (!clipped.every(Number.isFinite)) continue;
      if (roi.min_size > 0 && !largerThan(clipped, roi.min_size)) continue;
      found.boxes.push(...clipped);
      found.scores.push(score);
      found.labels.push(label);
    }
  return found;
}

// Suppress boxes class by class, and keep those with an area.
function detect({ boxes, scores, labels }, roi) {
  const best = nms(boxes, scores, labels, roi.nms_thresh).slice(0, roi.detections_per_img);
  const keep = best.filter((i) => largerThan(boxes.slice(4 * i, 4 * i + 4), 0));
  return {
    boxes: Float32Array.from(keep.flatMap((i) => boxes.slice(4 * i, 4 * i + 4))),
    scores: Float32Array.from(keep, (i) => scores[i]),
    labels: Int32Array.from(keep, (i) => labels[i]),
  };
}

// Mask probabilities of all boxes, each side x side.
async function predictMasks(run, maps, { boxes, labels }) {
  if (labels.length === 0) return null;
  const { masks } = await run("masks", {
    boxes: floats(boxes, [labels.length, 4]),
    labels: { type: "int64", data: BigInt64Array.from(labels, BigInt), dims: [labels.length] },
    ...maps,
  });
  return masks;
}

// The boxes' masks as maps of 0 and 1 of the image's size.
function pasteMasks({ boxes, labels }, masks, { image }) {
  return Array.from(labels, (_, i) => {
    const side = masks.dims[1];
    return paste(masks.data, i * side * side, side, boxes.subarray(4 * i, 4 * i + 4), image);
  });
}

// The panoptic map: objects, highest score first, then stuff where nothing was painted.
export function merge({ scores, labels, masks, semantic, numThings, config }) {
  const result = new Result(new Int32Array(semantic.length).fill(VOID));
  const panoptic = result.panoptic;
  for (const i of argsortDescending(scores)) {
    if (scores[i] < config.score_thresh) break;
    let area = 0, left = 0;
    masks[i].forEach((inside, pixel) => {
      area += inside;
      if (inside && panoptic[pixel] === VOID) left++;
    });
    if (left === 0 || (area - left) / area > config.overlap_thresh) continue;
    const id = result.addSegment(labels[i], scores[i]);
    masks[i].forEach((inside, pixel) => {
      if (inside && panoptic[pixel] === VOID) panoptic[pixel] = id;
    });
  }
  const free = panoptic.map((id) => (id === VOID ? 1 : 0));
  const isStuff = (label) => label >= numThings && label !== IGNORE;
  const area = new Map();
  semantic.forEach((label, pixel) => {
    if (free[pixel] && isStuff(label)) area.set(label, (area.get(label) ?? 0) + 1);
  });
  for (const label of [...area.keys()].sort((a, b) => a - b)) {
    if (area.get(label) < config.min_stuff_area) continue;
    const id = result.addSegment(label);
    semantic.forEach((other, pixel) => {
      if (free[pixel] && other === label) panoptic[pixel] = id;
    });
  }
  return result;
}
