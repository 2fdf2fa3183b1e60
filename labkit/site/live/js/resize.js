// Pillow's bilinear filter for 8-bit pixels, to the last bit: first along the rows, then along the
// columns, each time rounded to whole grey levels. (Pillow 13 sometimes takes the columns first,
// which rounds differently.) Where an image gets smaller, the filter covers all the pixels that
// fall into a new one.

const PRECISION = 22; // bits after the point of the integer weights

// For every new pixel the first old one and the weights of those that it is made of.
function filterWeights(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), from);
    const weights = [];
    let sum = 0;
    for (let k = first; k < end; k++) {
      const weight = Math.max(1 - Math.abs((k - centre + 0.5) * (1 / reach)), 0);
      weights.push(weight);
      sum += weight;
    }
    return [first, weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION))];
  });
}

// One axis of an RGB image: `lines` lines of `from` pixels; steps in the array along and across.
function resizeAxis(rgb, out, filter, lines, along, across, outAlong, outAcross) {
  filter.forEach(([first, weights], i) => {
    for (let line = 0; line < lines; line++)
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (PRECISION - 1);
        let at = line * across + first * along + channel;
        for (const weight of weights) {
          sum += rgb[at] * weight;
          at += along;
        }
        const value = Math.floor(sum / 2 ** PRECISION);
        out[line * outAcross + i * outAlong + channel] = Math.min(Math.max(value, 0), 255);
      }
  });
}

// An RGB image { height, width, rgb } in another size.
export function resize({ height, width, rgb }, [newHeight, newWidth]) {
  let pixels = rgb;
  if (newWidth !== width) {
    const rows = new Uint8ClampedArray(height * newWidth * 3);
    const filter = filterWeights(width, newWidth);
    resizeAxis(pixels, rows, filter, height, 3, 3 * width, 3, 3 * newWidth);
    pixels = rows;
  }
  if (newHeight !== height) {
    const columns = new Uint8ClampedArray(newHeight * newWidth * 3);
    const filter = filterWeights(height, newHeight);
    resizeAxis(pixels, columns, filter, newWidth, 3 * newWidth, 3, 3 * newWidth, 3);
    pixels = columns;
  }
  return { height: newHeight, width: newWidth, rgb: pixels };
}
