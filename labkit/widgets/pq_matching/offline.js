// The panoptic quality explorer in a page without a kernel: moved segments are matched here, by
// the rules of labkit/metrics/panoptic_matching.py, and the table is that of matching.py.

const PREDICTION = 1; // the panel whose segments can be moved
const COLUMNS = ["class", "sum of IoU", "TP", "FP", "FN", "SQ", "RQ", "PQ", "PQ before"];
const percent = (share) => (Number.isNaN(share) ? "-" : (100 * share).toFixed(1));

async function numbersOf(layer) {
  return new Uint16Array((await inflate(layer.data)).buffer);
}

async function start(el, { image, layers, classes }) {
  const [truth, before] = await Promise.all(layers.map(numbersOf));
  for (const [layer, numbers] of [[layers[0], truth], [layers[1], before]])
    layer.first = layer.segments.map((_, i) => numbers.indexOf(i + 1));
  const offsets = new Map(); // by number of the segment: [x, y]; the last is on top
  const first = matchSegments(truth, before, layers, classes);
  let quality = first;
  const state = {
    _image: image, _movable: [PREDICTION], _moves: 0, hidden: [],
    opacity: 0.6, show_things: true, show_stuff: true, show_names: true,
  };
  const model = new OfflineModel(state, ({ id, dx, dy }) => {
    const number = layers[PREDICTION].segments.findIndex((segment) => segment.id === id) + 1;
    shift(number, dx, dy);
    model.set("_moves", model.get("_moves") + 1);
  });
  const viewer = make("div", "", el);
  const scroll = make("div", "labkit-offline-scroll", el);
  const table = make("table", "", scroll);
  const row = make("div", "labkit-offline-row", el);
  const reset = make("button", "", row, "put all back");
  const status = make("p", "labkit-status", el);
  status.setAttribute("role", "status");

  // Move a segment by some pixels; its middle pixel stays in the image.
  function shift(number, dx, dy) {
    const { width, height } = image, pixels = [];
    before.forEach((other, i) => other === number && pixels.push(i));
    const middle = pixels[pixels.length >> 1];
    const [column, line] = [middle % width, Math.floor(middle / width)];
    const [wasX, wasY] = offsets.get(number) ?? [0, 0];
    const limit = (value, low, high) => Math.min(Math.max(value, low), high);
    const x = limit(wasX + dx, -column, width - 1 - column);
    const y = limit(wasY + dy, -line, height - 1 - line);
    offsets.delete(number); // added again last, so that it is on top
    offsets.set(number, [x, y]);
    const name = layers[PREDICTION].segments[number - 1].text;
    const across = `${Math.abs(x)} pixels ${x < 0 ? "left" : "right"}`;
    show(`${name} is ${across} and ${Math.abs(y)} ${y < 0 ? "up" : "down"} of where it was.`);
  }

  async function show(what) {
    const moved = moveSegments(before, offsets, image);
    quality = matchSegments(truth, moved, layers, classes);
    model.set("_layers", await Promise.all([
      encoded(layers[0], truth, quality.truth, layers[1], quality.pq, image.width),
      encoded(layers[1], moved, quality.predicted, layers[0], quality.pq, image.width),
    ]));
    fillTable(table, quality, first);
    reset.disabled = offsets.size === 0;
    const [pq, sq, rq] = [quality.pq, quality.sq, quality.rq].map(percent);
    status.textContent = `PQ ${pq}, SQ ${sq}, RQ ${rq}. ${what}`;
    el.dataset.ready = String(Number(el.dataset.ready ?? 0) + 1);
  }

  reset.type = "button";
  reset.addEventListener("click", () => {
    offsets.clear();
    show("Everything is where it was.");
  });
  await show("Drag a predicted segment, or choose it with Enter and use the arrow keys.");
  render({ el: viewer, model });
}

// Move some segments over the others; the pixels that they leave become void.
function moveSegments(numbers, offsets, { width, height }) {
  const moved = numbers.map((number) => (offsets.has(number) ? 0 : number));
  for (const [number, [dx, dy]] of offsets)
    numbers.forEach((other, i) => {
      const x = (i % width) + dx, y = Math.floor(i / width) + dy;
      if (other === number && x >= 0 && x < width && y >= 0 && y < height)
        moved[y * width + x] = number;
    });
  return moved;
}

// Matches of two maps of numbers, 0 being void, and panoptic quality by class.
function matchSegments(truth, predicted, [trueLayer, predictedLayer], classes) {
  const count = (segments) => new Float64Array(segments.length + 1);
  const trueArea = count(trueLayer.segments), area = count(predictedLayer.segments);
  const rows = trueArea.length, shared = new Float64Array(rows * area.length);
  truth.forEach((t, i) => {
    trueArea[t]++;
    area[predicted[i]]++;
    shared[predicted[i] * rows + t]++;
  });
  const fates = (layer) => layer.segments.map(() => ({ kind: "not counted", iou: 0 }));
  const result = { truth: fates(trueLayer), predicted: fates(predictedLayer) };
  const crowds = new Map(); // the last one of each class, as panopticapi has it
  trueLayer.segments.forEach((segment, t) => {
    if (segment.iscrowd) crowds.set(segment.label, t + 1);
    else result.truth[t].kind = "FN";
  });
  const closer = (fate, partner, iou) => iou > fate.iou && Object.assign(fate, { partner, iou });
  predictedLayer.segments.forEach(({ label }, p) => {
    const column = (p + 1) * rows, onVoid = shared[column];
    if (area[p + 1] === 0) return; // moved out of sight
    const fate = result.predicted[p];
    let excused = onVoid;
    if (crowds.has(label)) excused += shared[column + crowds.get(label)];
    if (excused / area[p + 1] <= 0.5) fate.kind = "FP";
    trueLayer.segments.forEach((segment, t) => {
      const both = shared[column + t + 1];
      if (segment.label !== label || segment.iscrowd || both === 0) return;
      const iou = both / (area[p + 1] + trueArea[t + 1] - both - onVoid);
      closer(fate, t, iou);
      closer(result.truth[t], p, iou);
      if (iou > 0.5) fate.kind = result.truth[t].kind = "TP";
    });
  });
  return withQuality(result, [trueLayer, predictedLayer], area, classes);
}

function withQuality(result, [trueLayer, predictedLayer], area, classes) {
  const perClass = classes.map((name) => ({ name, iouSum: 0, tp: 0, fp: 0, fn: 0 }));
  result.predicted.forEach(({ kind, iou }, p) => {
    const own = perClass[predictedLayer.segments[p].label];
    if (kind === "TP") {
      own.tp++;
      own.iouSum += iou;
    } else if (kind === "FP" && area[p + 1] > 0) own.fp++;
  });
  result.truth.forEach(({ kind }, t) => {
    if (kind === "FN") perClass[trueLayer.segments[t].label].fn++;
  });
  for (const own of perClass) {
    own.sq = own.tp ? own.iouSum / own.tp : 0;
    own.rq = own.tp / (own.tp + own.fp / 2 + own.fn / 2);
    own.pq = own.iouSum / (own.tp + own.fp / 2 + own.fn / 2);
  }
  const present = perClass.filter(({ tp, fp, fn }) => tp + fp + fn > 0);
  for (const name of ["sq", "rq", "pq"])
    result[name] = present.reduce((sum, own) => sum + own[name], 0) / present.length;
  for (const [fates, layer] of [[result.truth, trueLayer], [result.predicted, predictedLayer]])
    fates.forEach((fate, i) => {
      const own = perClass[layer.segments[i].label];
      fate.share = fate.iou / (own.tp + own.fp / 2 + own.fn / 2) / present.length;
    });
  return { ...result, perClass: present };
}

// A panel of the viewer, with TP, FP or FN in the names, and matches linked.
async function encoded(layer, numbers, fates, other, pq, width) {
  const segments = layer.segments.map((segment, i) => {
    const fate = fates[i], isMatch = fate.kind === "TP";
    const partner = fate.partner === undefined ? null : other.segments[fate.partner];
    const text = `${segment.text}: ${fate.kind}${isMatch ? ` ${fate.iou.toFixed(2)}` : ""}`;
    const description = [text, segment.score, note(fate, partner, pq)].filter(Boolean).join(" · ");
    const match = isMatch ? (layer.title === "ground truth" ? segment.id : partner.id) : null;
    const place = moved(segment.place, layer.first[i], numbers.indexOf(i + 1), width);
    return { ...segment, text, description, match, place };
  });
  const stream = new Blob([numbers]).stream().pipeThrough(new CompressionStream("deflate"));
  const data = new DataView(await new Response(stream).arrayBuffer());
  const present = new Set(numbers);
  const words = segments.filter((_, i) => present.has(i + 1)).map(({ text }) => text);
  return { ...layer, segments, data, summary: `${layer.title}: ${words.join("; ")}` };
}

// The place of a name whose segment's first pixel was and is at these indices.
function moved(place, was, is, width) {
  if (!place || is < 0) return null;
  const lines = Math.floor(is / width) - Math.floor(was / width);
  return [place[0] + (is % width) - (was % width), place[1] + lines];
}

function note({ kind, iou, share }, partner, pq) {
  const whole = percent(pq);
  if (kind === "not counted")
    return "a crowd, or mostly on void or crowd: neither TP, FP nor FN";
  if (kind === "TP")
    return `matches ${partner.text}: IoU ${iou.toFixed(3)} > 0.5 · adds ${percent(share)} of PQ ${whole}`;
  const closest = partner
    ? `closest is ${partner.text}: IoU ${iou.toFixed(3)} ≤ 0.5`
    : "nothing overlaps";
  return `no match, ${closest} · adds 0 of PQ ${whole}, and ½ to the denominator`;
}

function fillTable(table, quality, first) {
  table.replaceChildren();
  make("caption", "", table, "Scores of this image, in percent");
  const head = make("tr", "", make("thead", "", table));
  for (const name of COLUMNS) make("th", "", head, name).scope = "col";
  const body = make("tbody", "", table);
  const line = (name, cells) => {
    const row = make("tr", "", body);
    if (cells.at(-1) !== cells.at(-2)) row.style.fontWeight = "bold";
    make("th", "", row, name).scope = "row";
    for (const cell of cells) make("td", "", row, String(cell));
  };
  for (const { name, iouSum, tp, fp, fn, sq, rq, pq } of quality.perClass) {
    const then = first.perClass.find((own) => own.name === name)?.pq ?? NaN;
    line(name, [iouSum.toFixed(3), tp, fp, fn, ...[sq, rq, pq, then].map(percent)]);
  }
  line("mean", ["", "", "", "", ...["sq", "rq", "pq"].map((q) => percent(quality[q])),
    percent(first.pq)]);
}
