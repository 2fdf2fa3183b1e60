// Textures of the ground and colours as the data set Shapes draws them:
// labkit/datasets/shapes/textures.py and canvas.py. Here chance comes from Math.random.

const uniform = (low, high) => low + (high - low) * Math.random();

// Smooth noise in [-1, 1]: random values on a grid, interpolated between its points.
function valueNoise(width, height, rows, columns) {
  const grid = Array.from({ length: (rows + 1) * (columns + 1) }, () => uniform(-1, 1));
  const blend = (i, side, cells) => {
    const position = ((i + 0.5) * cells) / side, cell = Math.floor(position);
    const inside = position - cell;
    return [cell, inside * inside * (3 - 2 * inside)];
  };
  const across = Array.from({ length: width }, (_, x) => blend(x, width, columns));
  const field = new Float32Array(width * height);
  for (let y = 0, at = 0; y < height; y++) {
    const [top, down] = blend(y, height, rows);
    for (let x = 0; x < width; x++, at++) {
      const [left, right] = across[x];
      const corner = top * (columns + 1) + left, below = corner + columns + 1;
      const upper = grid[corner] + (grid[corner + 1] - grid[corner]) * right;
      const lower = grid[below] + (grid[below + 1] - grid[below]) * right;
      field[at] = upper + (lower - upper) * down;
    }
  }
  return field;
}

// Triangle wave of period 1 between -1 and 1.
export const triangleWave = (x) => Math.abs(x - Math.floor(x) - 0.5) * 4 - 1;

const clouds = (w, h) => {
  const fine = valueNoise(w, h, 9, 6);
  return valueNoise(w, h, 4, 3).map((v, i) => v + 0.4 * fine[i]);
};
const blades = (w, h) => valueNoise(w, h, 14, 56).map((v) => 1.3 * v);
const ripples = (w, h) => {
  const bend = valueNoise(w, h, 7, 5), strength = valueNoise(w, h, 9, 5), waves = uniform(13, 20);
  return bend.map((b, i) =>
    triangleWave((Math.floor(i / w) * waves) / h + 0.7 * b) * (0.4 * strength[i] + 0.6));
};
const grains = (w, h) => valueNoise(w, h, 60, 60).map((v) => 1.4 * v);

export const GROUNDS = {
  sky: { texture: clouds, color: [150, 180, 210] },
  grass: { texture: blades, color: [112, 150, 84] },
  water: { texture: ripples, color: [92, 140, 172] },
  sand: { texture: grains, color: [192, 172, 132] },
};

// A whole image of one ground: RGB of width x height.
export function groundImage(name, width, height) {
  const { texture, color } = GROUNDS[name];
  const field = texture(width, height), contrast = uniform(20, 28);
  const shade = color.map((base) => base + uniform(-20, 20));
  const rgb = new Uint8ClampedArray(3 * width * height);
  for (let i = 0; i < field.length; i++)
    for (let c = 0; c < 3; c++)
      rgb[3 * i + c] = shade[c] + field[i] * contrast + 4 * (uniform(-1, 1) + uniform(-1, 1));
  return rgb;
}
