// The image that the reader draws: grounds by a brush, shapes in one step, undone step by step.
// Shapes look as those of the data set: labkit/datasets/shapes/canvas.py.

import { groundImage, GROUNDS, triangleWave } from "./textures.js";

export const SIDE = 128; // pixels of the model's images
const STEPS = 60; // that can be undone

// Signed distance to the outline, negative inside, of points u, v; all in radii.
export const OUTLINES = {
  square: (u, v) => Math.max(Math.abs(u), Math.abs(v)) - 0.886,
  circle: (u, v) => Math.hypot(u, v) - 1,
  triangle: (u, v) => Math.max(Math.abs(u) * 0.8660254 - v * 0.5, v) - 0.7,
};

const PATTERNS = [
  () => 0,
  (u, v, period) => triangleWave(u / period),
  (u, v, period) => triangleWave(u / period) * triangleWave(v / period),
  (u, v, period) => triangleWave(Math.hypot(u, v) / period),
];

export class Drawing {
  constructor() {
    this.grounds = new Map(); // whole images of the grounds, made when a brush first needs them
    this.done = []; // earlier images
    this.show(newGround());
  }

  // Replace the image by another one { height, width, rgb }.
  show(image) {
    if (this.image) this.remember();
    this.image = { ...image, rgb: Uint8ClampedArray.from(image.rgb) };
    this.grounds.clear();
  }

  // A step begins: what is there now can be brought back.
  remember() {
    this.done.push({ ...this.image, rgb: Uint8ClampedArray.from(this.image.rgb) });
    if (this.done.length > STEPS) this.done.shift();
  }

  undo() {
    if (this.done.length === 0) return;
    this.image = this.done.pop();
    this.grounds.clear();
  }

  // Paint a disc of a ground, all along the way from one point to another.
  brush(name, from, to, radius) {
    const { width, height, rgb } = this.image;
    if (!this.grounds.has(name)) this.grounds.set(name, groundImage(name, width, height));
    const paint = this.grounds.get(name);
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    const count = Math.ceil(length / Math.max(radius / 2, 1)) + 1;
    for (let step = 0; step < count; step++) {
      const share = count === 1 ? 1 : step / (count - 1);
      const cx = from[0] + (to[0] - from[0]) * share, cy = from[1] + (to[1] - from[1]) * share;
      forPixelsAround(cx, cy, radius, this.image, (x, y, at) => {
        if (Math.hypot(x - cx, y - cy) >= radius) return;
        for (let c = at; c < at + 3; c++) rgb[c] = paint[c];
      });
    }
  }

  // Draw a shape around a point, in a colour [r, g, b]; tilt and pattern are random.
  stamp(kind, [cx, cy], radius, color) {
    const { rgb } = this.image;
    const angle = (Math.random() - 0.5) * 0.48, cos = Math.cos(angle), sin = Math.sin(angle);
    const pattern = PATTERNS[Math.floor(Math.random() * PATTERNS.length)];
    const period = 0.35 + 0.45 * Math.random(), contrast = 5 + 13 * Math.random();
    const rim = 0.55 + 0.3 * Math.random();
    forPixelsAround(cx, cy, 1.45 * radius + 1, this.image, (x, y, at) => {
      const u = ((x - cx) * cos + (y - cy) * sin) / radius;
      const v = ((y - cy) * cos - (x - cx) * sin) / radius;
      const outside = OUTLINES[kind](u, v) * radius; // pixels from the outline
      const cover = Math.min(Math.max(0.5 - outside, 0), 1);
      if (cover === 0) return;
      const shade = pattern(u, v, period) * contrast - 12 * v; // lighter at one side
      for (let c = 0; c < 3; c++) {
        const paint = (color[c] + shade) * (outside > -1.2 ? rim : 1);
        rgb[at + c] += (paint - rgb[at + c]) * cover + 4 * (Math.random() - 0.5);
      }
    });
  }
}

// Call visit(x, y, index of its red) for the pixels of an image near a point.
function forPixelsAround(cx, cy, reach, { width, height }, visit) {
  const left = Math.max(Math.floor(cx - reach), 0), right = Math.min(Math.ceil(cx + reach), width - 1);
  const top = Math.max(Math.floor(cy - reach), 0), bottom = Math.min(Math.ceil(cy + reach), height - 1);
  for (let y = top; y <= bottom; y++)
    for (let x = left; x <= right; x++) visit(x, y, 3 * (y * width + x));
}

// An empty image: two grounds, one above the other.
export function newGround() {
  const names = Object.keys(GROUNDS);
  const upper = names.splice(Math.random() < 0.7 ? 0 : Math.floor(Math.random() * 4), 1)[0];
  const lower = names[Math.floor(Math.random() * names.length)];
  const rgb = groundImage(upper, SIDE, SIDE), below = groundImage(lower, SIDE, SIDE);
  const [start, slope, bend] = [45 + 38 * Math.random(), Math.random() - 0.5, 12 * Math.random()];
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      const border = start + slope * (x - SIDE / 2) + bend * Math.sin((x / SIDE) * 5);
      const at = 3 * (y * SIDE + x);
      if (y > border) rgb.set(below.subarray(at, at + 3), at);
    }
  return { height: SIDE, width: SIDE, rgb };
}

// A colour for the next shape: any hue, as in the data set.
export function randomColor() {
  return [0, 0, 0].map(() => Math.floor(30 + 200 * Math.random()));
}
