// A panoptic map and its segments: labkit/deploy/result.py.
// A map is flat: pixel (x, y) of an image of [height, width] is element y * width + x.

export const VOID = 0;
export const IGNORE = 255;

export class Result {
  constructor(panoptic) {
    this.panoptic = panoptic; // the id of each pixel's segment, VOID where there is none
    this.segments = []; // of each id its id, label and, for things, score
  }

  // Append a segment; return its id.
  addSegment(label, score = null) {
    const segment = { id: this.segments.length + 1, label };
    if (score !== null) segment.score = score;
    this.segments.push(segment);
    return segment.id;
  }
}

// Indices of the values, largest first; equal ones keep their order.
export function argsortDescending(values) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
}
