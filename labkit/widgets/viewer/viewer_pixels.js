// The pixels of the segment viewer: an image of W x H pixels, S canvas pixels for the side of each,
// hence a canvas of w x h. The arithmetic of `paint` is that of draw_layer in segment_layers.py, to
// the last bit. One module together with viewer.js, which follows it.

async function inflate(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The image, enlarged: one number 0x00BBGGRR per canvas pixel.
async function decodeImage({ height, width, scale, data }) {
  const rgb = await inflate(data);
  for (let row = 0; row < rgb.length; row += 3 * width)
    for (let i = row + 3; i < row + 3 * width; i++) rgb[i] += rgb[i - 3]; // modulo 256
  const w = width * scale, h = height * scale;
  const pixels = new Uint32Array(w * h);
  for (let y = 0, at = 0; y < h; y++)
    for (let x = 0; x < w; x++, at++) {
      const i = 3 * (((y / scale) | 0) * width + ((x / scale) | 0));
      pixels[at] = rgb[i] | (rgb[i + 1] << 8) | (rgb[i + 2] << 16);
    }
  return { W: width, H: height, S: scale, w, h, pixels };
}

// A layer's numbers per canvas pixel, where one of the eight neighbours has another number, and of
// every number the box (left, top, right, bottom) around its pixels.
async function decodeLayer(layer, image) {
  if (layer.message !== null) return null;
  const { W, S, w, h } = image;
  const small = new Uint16Array((await inflate(layer.data)).buffer);
  const numbers = new Uint16Array(w * h);
  for (let y = 0, at = 0; y < h; y++)
    for (let x = 0; x < w; x++, at++) numbers[at] = small[((y / S) | 0) * W + ((x / S) | 0)];
  const border = new Uint8Array(w * h);
  const boxes = layer.segments.map(() => [w, h, 0, 0]);
  for (let y = 0, at = 0; y < h; y++) {
    const up = y > 0 ? -w : 0, down = y < h - 1 ? w : 0;
    for (let x = 0; x < w; x++, at++) {
      const left = x > 0 ? -1 : 0, right = x < w - 1 ? 1 : 0;
      const n = numbers[at];
      if (n) {
        const box = boxes[n - 1];
        if (x < box[0]) box[0] = x;
        if (y < box[1]) box[1] = y;
        if (x >= box[2]) box[2] = x + 1;
        box[3] = y + 1;
      }
      if (
        numbers[at + left] !== n || numbers[at + right] !== n ||
        numbers[at + up] !== n || numbers[at + down] !== n ||
        numbers[at + up + left] !== n || numbers[at + up + right] !== n ||
        numbers[at + down + left] !== n || numbers[at + down + right] !== n
      ) border[at] = 1;
    }
  }
  return { numbers, border, boxes };
}

function paint(panel, image, opacity, isVisible) {
  const { numbers, border } = panel.map;
  const segments = panel.layer.segments;
  const alpha = Math.floor(256 * opacity + 0.5), rest = 256 - alpha;
  const visible = new Uint8Array(segments.length + 1);
  const part = new Uint32Array(3 * (segments.length + 1)); // alpha times the colour, and rounding
  segments.forEach((segment, k) => {
    visible[k + 1] = isVisible(segment) ? 1 : 0;
    for (let c = 0; c < 3; c++) part[3 * (k + 1) + c] = segment.color[c] * alpha + 128;
  });
  const picture = new ImageData(image.w, image.h);
  const out = new Uint32Array(picture.data.buffer);
  for (let at = 0; at < out.length; at++) {
    const base = image.pixels[at], n = numbers[at];
    if (!visible[n]) out[at] = (base | 0xff000000) >>> 0;
    else if (border[at]) out[at] = 0xffffffff;
    else {
      const red = base & 255, green = (base >> 8) & 255, blue = (base >> 16) & 255;
      const below = rest * ((77 * red + 150 * green + 29 * blue + 128) >> 8); // grey
      const r = (below + part[3 * n]) >> 8;
      const g = (below + part[3 * n + 1]) >> 8;
      const b = (below + part[3 * n + 2]) >> 8;
      out[at] = (r | (g << 8) | (b << 16) | 0xff000000) >>> 0;
    }
  }
  panel.canvas.getContext("2d").putImageData(picture, 0, 0);
}

// A band along the inside of a segment's outline: a canvas, and where it belongs. null: no pixels.
function band(panel, image, number, [r, g, b]) {
  const { w, h } = image, { numbers, border, boxes } = panel.map;
  const [left, top, right, bottom] = boxes[number - 1];
  if (left >= right) return null;
  const reach = Math.max(3, Math.round(w / 160));
  const picture = new ImageData(right - left, bottom - top);
  const out = new Uint32Array(picture.data.buffer);
  const color = (r | (g << 8) | (b << 16) | 0xff000000) >>> 0;
  for (let y = top, to = 0; y < bottom; y++)
    for (let x = left, at = y * w + left; x < right; x++, at++, to++) {
      if (numbers[at] !== number || border[at]) continue;
      for (let d = 1; d <= reach; d++)
        if (
          (x >= d && numbers[at - d] !== number) || (x + d < w && numbers[at + d] !== number) ||
          (y >= d && numbers[at - d * w] !== number) || (y + d < h && numbers[at + d * w] !== number)
        ) {
          out[to] = color;
          break;
        }
    }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: right - left, height: bottom - top });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return { canvas, left, top };
}
