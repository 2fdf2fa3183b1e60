// Pixels: an image as a network takes it, maps resized, masks pasted: labkit/deploy/images.py.
// Interpolation is PyTorch's: the centre of cell [i, j] is (i + 0.5, j + 0.5).

const round32 = Math.fround;

// Normalise and pad an RGB image to a batch of one, [1, 3, H, W].
export function preprocess({ height, width, rgb }, options) {
  const padTo = (side) => Math.ceil(side / options.size_divisor) * options.size_divisor;
  const padded = [padTo(height), padTo(width)];
  const batch = new Float32Array(3 * padded[0] * padded[1]);
  for (let channel = 0; channel < 3; channel++) {
    const mean = round32(options.mean[channel]), std = round32(options.std[channel]);
    for (let y = 0; y < height; y++) {
      const to = (channel * padded[0] + y) * padded[1];
      for (let x = 0; x < width; x++)
        batch[to + x] = round32(rgb[3 * (y * width + x) + channel] - mean) / std;
    }
  }
  return { batch, sizes: { image: [height, width], padded } };
}

// Where to read new cells: between which two old ones, and the share of the second.
function places(cells, from) {
  const inside = cells.map((cell) => Math.min(Math.max(cell, 0), from - 1));
  const low = Int32Array.from(inside);
  const high = low.map((i) => Math.min(i + 1, from - 1));
  return { low, high, share: inside.map((cell, i) => cell - low[i]) };
}

// Sample a map of [h, w] that begins at an index, at rows and columns given in cells.
function sample(x, begin, [h, w], rows, columns, out, outBegin) {
  const across = places(columns, w), down = places(rows, h), width = columns.length;
  const narrow = new Float32Array(h * width);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < width; j++) {
      const left = x[begin + i * w + across.low[j]], right = x[begin + i * w + across.high[j]];
      const share = across.share[j];
      narrow[i * width + j] = round32(left * round32(1 - share)) + round32(right * share);
    }
  for (let i = 0; i < rows.length; i++) {
    const above = down.low[i] * width, below = down.high[i] * width;
    const share = down.share[i], rest = round32(1 - share);
    for (let j = 0; j < width; j++)
      out[outBegin + i * width + j] =
        round32(narrow[above + j] * rest) + round32(narrow[below + j] * share);
  }
}

const cellsOf = (from, to) =>
  Float32Array.from({ length: to }, (_, i) => round32((i + 0.5) * round32(from / to)) - 0.5);

// Logits of n maps [h, w], interpolated to the padded image and cut to the image: n maps in one
// array.
export function atImageSize(logits, n, [h, w], { image, padded }) {
  const [height, width] = image;
  const rows = cellsOf(h, padded[0]).subarray(0, height);
  const columns = cellsOf(w, padded[1]).subarray(0, width);
  const out = new Float32Array(n * height * width);
  for (let k = 0; k < n; k++)
    sample(logits, k * h * w, [h, w], rows, columns, out, k * height * width);
  return out;
}

// The number of the largest of n maps in one array, for every pixel.
export function argmax(maps, n) {
  const area = maps.length / n;
  const best = new Int32Array(area);
  for (let k = 1; k < n; k++)
    for (let i = 0; i < area; i++)
      if (maps[k * area + i] > maps[best[i] * area + i]) best[i] = k;
  return best;
}

// Paste the probabilities of a mask of side x side into its box: a map of 0 and 1, 1 where the
// probability sampled at the pixel's centre is at least one half.
export function paste(probabilities, begin, side, [x1, y1, x2, y2], [height, width]) {
  const bordered = new Float32Array((side + 2) ** 2); // 0 around the mask
  for (let i = 0; i < side; i++) {
    const row = probabilities.subarray(begin + i * side, begin + (i + 1) * side);
    bordered.set(row, (i + 1) * (side + 2) + 1);
  }
  const left = Math.max(Math.floor(x1) - 1, 0), right = Math.min(Math.ceil(x2) + 1, width);
  const top = Math.max(Math.floor(y1) - 1, 0), bottom = Math.min(Math.ceil(y2) + 1, height);
  const columns = maskCells(left, right, x1, x2, side);
  const rows = maskCells(top, bottom, y1, y2, side);
  const sampled = new Float32Array(rows.length * columns.length);
  sample(bordered, 0, [side + 2, side + 2], rows, columns, sampled, 0);
  const mask = new Uint8Array(height * width);
  for (let i = 0; i < rows.length; i++)
    for (let j = 0; j < columns.length; j++)
      if (sampled[i * columns.length + j] >= 0.5) mask[(top + i) * width + left + j] = 1;
  return mask;
}

// Pixels in cells of a mask with a border of one cell.
function maskCells(first, end, low, high, side) {
  return Float32Array.from({ length: end - first }, (_, i) => {
    const share = round32(round32(first + i + 0.5 - low) / round32(high - low));
    const fromMinusOne = round32(round32(share * 2) - 1);
    const cells = round32(round32(round32(fromMinusOne + 1) * side) - 1);
    return round32(cells / 2) + 1;
  });
}
