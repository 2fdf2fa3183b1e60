// Boxes, four numbers each (XYXY) in one flat Float32Array: labkit/deploy/boxes.py.
// Math.fround rounds to float32 after every step, as NumPy does, so that the same boxes survive.

import { argsortDescending } from "./result.js";

const f = Math.fround;
const MAX_LOG_SCALE = f(Math.log(1000 / 16));

// The anchors of a level: those of a cell at every cell of the grid, row by row.
export function gridAnchors(cell, [rows, columns], [strideY, strideX]) {
  const anchors = new Float32Array(rows * columns * cell.length * 4);
  let at = 0;
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      for (const [x1, y1, x2, y2] of cell) {
        const x = column * strideX, y = row * strideY;
        anchors.set([x + f(x1), y + f(y1), x + f(x2), y + f(y2)], at);
        at += 4;
      }
  return anchors;
}

// Apply the four deltas that begin at an index to the box that begins at another.
export function decode(deltas, d, references, r, weights) {
  const width = f(references[r + 2] - references[r]);
  const height = f(references[r + 3] - references[r + 1]);
  const x = f(f(f(deltas[d] / weights[0]) * width) + f(references[r] + f(0.5 * width)));
  const y = f(f(f(deltas[d + 1] / weights[1]) * height) + f(references[r + 1] + f(0.5 * height)));
  const w = f(f(Math.exp(Math.min(f(deltas[d + 2] / weights[2]), MAX_LOG_SCALE))) * width);
  const h = f(f(Math.exp(Math.min(f(deltas[d + 3] / weights[3]), MAX_LOG_SCALE))) * height);
  return [f(x - f(0.5 * w)), f(y - f(0.5 * h)), f(x + f(0.5 * w)), f(y + f(0.5 * h))];
}

const limit = (value, low, high) => Math.min(Math.max(value, low), high);

// Clip to an image; plusOne: boxes from pixel to pixel keep at least one pixel.
export function clip([x1, y1, x2, y2], [height, width], plusOne = false) {
  const box = [limit(x1, 0, width), limit(y1, 0, height), limit(x2, 0, width), limit(y2, 0, height)];
  if (!plusOne) return box;
  const low = [Math.min(box[0], width - 1), Math.min(box[1], height - 1)];
  return [...low, Math.max(box[2], 1), Math.max(box[3], 1)];
}

// Whether both sides are longer; a box that is not finite has none.
export function largerThan([x1, y1, x2, y2], side) {
  return f(x2 - x1) > side && f(y2 - y1) > side && [x1, y1, x2, y2].every(Number.isFinite);
}

// Indices of the boxes that no better box of their group overlaps, highest score first.
export function nms(boxes, scores, groups, threshold) {
  const shifted = Float32Array.from(boxes);
  if (boxes.length > 0 && boxes.length <= 4000) { // rounded as in torchvision: groups moved apart
    const step = f(boxes.reduce((a, b) => Math.max(a, b), -Infinity) + 1);
    for (let i = 0; i < shifted.length; i++) shifted[i] += f(groups[i >> 2] * step);
  }
  const area = (i) =>
    f(f(shifted[4 * i + 2] - shifted[4 * i]) * f(shifted[4 * i + 3] - shifted[4 * i + 1]));
  const areas = Float32Array.from(scores, (_, i) => area(i));
  const side = (a, b, axis) =>
    Math.max(
      f(Math.min(shifted[4 * a + axis + 2], shifted[4 * b + axis + 2]) -
        Math.max(shifted[4 * a + axis], shifted[4 * b + axis])),
      0,
    );
  const overlaps = (a, b) => {
    const overlap = f(side(a, b, 0) * side(a, b, 1));
    return !(f(overlap / f(f(areas[a] + areas[b]) - overlap)) <= threshold);
  };
  const keep = [];
  for (const candidate of argsortDescending(scores))
    if (!keep.some((best) => groups[best] === groups[candidate] && overlaps(best, candidate)))
      keep.push(candidate);
  return keep;
}
