// An image and its panoptic map as the segment viewer reads them:
// labkit/widgets/viewer/image_encoding.py and segment_layers.py.

const SMALLEST_SIDE = 384; // of a panel's canvas, in pixels
const SMALLEST_NAMED = 0.035; // distance of a name to its segment's outline, in parts of the side

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

export async function encodeImage({ height, width, rgb }) {
  const differences = Uint8Array.from(rgb);
  for (let row = 0; row < rgb.length; row += 3 * width)
    for (let i = row + 3; i < row + 3 * width; i++) differences[i] = rgb[i] - rgb[i - 3];
  const scale = Math.max(1, Math.floor(SMALLEST_SIDE / Math.max(height, width)));
  return { height, width, scale, data: await deflate(differences) };
}

export async function encodeLayer(title, { panoptic, segments }, categories, { height, width }) {
  const nameOf = ({ label }) => categories[label].name;
  const places = namePlaces(panoptic, segments.length, height, width);
  const drawn = segments.map((segment) => {
    const { id, label, score } = segment, thing = categories[label].isthing === 1;
    const text = thing ? `${nameOf(segment)} ${id}` : nameOf(segment);
    const description = score === undefined ? text : `${text}, score ${score.toFixed(2)}`;
    const place = places[id - 1];
    return { id, text, description, color: categories[label].color, thing, match: null, place };
  });
  const names = segments.map(nameOf).join("; ") || "no segments";
  const data = await deflate(Uint16Array.from(panoptic)); // the n-th segment has id n
  return { title, message: null, summary: `${title}: ${names}`, data, segments: drawn };
}

// The most interior point [x, y] of each segment, by city-block distance; null where none is far
// enough inside for a name.
function namePlaces(panoptic, count, height, width) {
  const distance = new Uint16Array(panoptic.length);
  const nearer = (i, x, y, [dx, dy]) => {
    const [nx, ny] = [x + dx, y + dy];
    if (nx < 0 || nx >= width || ny < 0 || ny >= height) return 1;
    const other = ny * width + nx;
    return panoptic[other] === panoptic[i] ? distance[other] + 1 : 1;
  };
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++)
      distance[i] = Math.min(nearer(i, x, y, [-1, 0]), nearer(i, x, y, [0, -1]));
  const places = Array(count).fill(null);
  const best = Array(count).fill(SMALLEST_NAMED * Math.max(height, width));
  for (let y = height - 1, i = panoptic.length - 1; y >= 0; y--)
    for (let x = width - 1; x >= 0; x--, i--) {
      const back = Math.min(nearer(i, x, y, [1, 0]), nearer(i, x, y, [0, 1]));
      distance[i] = Math.min(distance[i], back);
      const segment = panoptic[i] - 1;
      if (segment < 0 || distance[i] < best[segment]) continue;
      best[segment] = distance[i];
      places[segment] = [x + 0.5, y + 0.5];
    }
  return places;
}
