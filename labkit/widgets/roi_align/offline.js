// The RoIAlign explorer in a page without a kernel: operator_samples.py and figure.py in
// JavaScript. Coordinates are in cells of the map, counted in edges.

const COLORS = { RoIPool: "#bd1f01", RoIWarp: "#e76300", RoIAlign: "#3f90da" };
const TITLES = {
  RoIPool: "rounds box and bins to cells, takes the largest value",
  RoIWarp: "rounds the box to cells, interpolates in it",
  RoIAlign: "rounds nothing, interpolates in the box itself",
};
const STEP = 0.25; // cells that an arrow key moves the box
const MOST_BINS = 8, MOST_SAMPLES = 4, WRITTEN_OUT = 4;
const HELP =
  "Draw another box on a map, or click on a bin of a grid. Keys, with a map focused: arrows move " +
  "the box by a quarter of a cell, Shift and arrows resize it; the menu chooses the bin.";
const format = (value) => (Math.abs(value) < 99.95 ? value.toFixed(2) : value.toFixed(0));
const span = ([x1, y1, x2, y2]) => {
  const [a, b, c, d] = [x1, x2, y1, y2].map((value) => value.toFixed(2));
  return `x ${a} to ${b}, y ${c} to ${d}`;
};
const limit = (value, low, high) => Math.min(Math.max(value, low), high);

// Halves away from zero, as C's round; the last cell is not before the first.
function wholeCells(box) {
  const round = (value) => Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
  const [x1, y1, x2, y2] = box.map(round);
  return [x1, y1, Math.max(x1, x2), Math.max(y1, y2)];
}

// Of RoIPool's bin along an axis its first cell and the one after its last, cut to the map.
function poolBin(first, last, bins, index, length) {
  const side = (last - first + 1) / bins;
  const begin = limit(first + Math.floor(index * side), 0, length);
  return [begin, limit(first + Math.ceil((index + 1) * side), 0, length)];
}

// RoIPool's value in a bin and the cell that it takes: labkit/ops/roi_pool.py.
function poolValue(map, whole, bins, [row, column]) {
  const [top, bottom] = poolBin(whole[1], whole[3], bins, row, map.height);
  const [left, right] = poolBin(whole[0], whole[2], bins, column, map.width);
  let value = 0, winner = null;
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++) {
      const cell = map.cells[y * map.width + x];
      if (winner === null || cell > value) [value, winner] = [cell, [y, x]];
    }
  const isEmpty = bottom <= top || right <= left;
  return { value, winner, bin: isEmpty ? [0, 0, 0, 0] : [left, top, right, bottom] };
}

// One bilinear sample at a point measured from the centre of the first cell: the cells that enter
// it, with their weights. labkit/ops/roi_align.py.
function bilinear(map, y, x) {
  const { height, width, cells } = map, sample = { x: x + 0.5, y: y + 0.5, taps: [], value: 0 };
  if (!(y >= -1 && y <= height && x >= -1 && x <= width)) return sample;
  const [cy, cx] = [limit(y, 0, height - 1), limit(x, 0, width - 1)];
  const top = Math.trunc(cy), left = Math.trunc(cx), down = cy - top, across = cx - left;
  const add = (row, column, weight) => {
    const cell = [Math.min(row, height - 1), Math.min(column, width - 1)];
    const known = sample.taps.find((tap) => tap.row === cell[0] && tap.column === cell[1]);
    if (known) known.weight += weight;
    else if (weight !== 0) {
      const value = cells[cell[0] * width + cell[1]];
      sample.taps.push({ row: cell[0], column: cell[1], weight, value });
    }
  };
  add(top, left, (1 - down) * (1 - across));
  add(top, left + 1, (1 - down) * across);
  add(top + 1, left, down * (1 - across));
  add(top + 1, left + 1, down * across);
  sample.value = sample.taps.reduce((sum, { weight, value }) => sum + weight * value, 0);
  return sample;
}

// The points that a bin of a region averages, ratio x ratio.
function samplesOf(map, [x1, y1, x2, y2], bins, ratio, [row, column]) {
  const at = (low, high, bin, i) => {
    const length = (high - low) / bins;
    return low - 0.5 + bin * length + ((i + 0.5) * length) / ratio;
  };
  const samples = [];
  for (let i = 0; i < ratio; i++)
    for (let j = 0; j < ratio; j++)
      samples.push(bilinear(map, at(y1, y2, row, i), at(x1, x2, column, j)));
  return samples;
}

// All three operators on a box: outputs, and the samples and weights of the chosen bin.
function sampleOperators(map, { box, bins, samples, selected }) {
  const whole = wholeCells(box);
  const rounded = [whole[0], whole[1], whole[2] + 1, whole[3] + 1];
  const everyBin = (valueOf) =>
    Array.from({ length: bins * bins }, (_, i) => valueOf([Math.floor(i / bins), i % bins]));
  const mean = (points) => points.reduce((sum, { value }) => sum + value, 0) / points.length;

  const pooled = poolValue(map, whole, bins, selected);
  const readings = {
    RoIPool: {
      region: rounded, bin: pooled.bin, samples: [], value: pooled.value,
      output: everyBin((bin) => poolValue(map, whole, bins, bin).value),
      weights: new Map(pooled.winner ? [[pooled.winner.join(), 1]] : []),
    },
  };
  for (const [name, region] of [["RoIWarp", rounded], ["RoIAlign", box]]) {
    const points = samplesOf(map, region, bins, samples, selected);
    const weights = new Map();
    for (const { taps } of points)
      for (const { row, column, weight } of taps) {
        const cell = [row, column].join();
        weights.set(cell, (weights.get(cell) ?? 0) + weight / points.length);
      }
    const w = (region[2] - region[0]) / bins, h = (region[3] - region[1]) / bins;
    const [x, y] = [region[0] + selected[1] * w, region[1] + selected[0] * h];
    readings[name] = {
      region, bin: [x, y, x + w, y + h], samples: points, value: mean(points), weights,
      output: everyBin((bin) => mean(samplesOf(map, region, bins, samples, bin))),
    };
  }
  return readings;
}

function start(el, { map, shades, picture, shown: initial }) {
  map.cells = new Float64Array(map.cells.buffer);
  const { height, width } = map, shown = { ...initial };
  const low = Math.min(...map.cells), high = Math.max(...map.cells);

  const menus = make("div", "labkit-offline-row", el);
  const counts = (most) => Array.from({ length: most }, (_, i) => `${i + 1} × ${i + 1}`);
  const bins = choice(menus, "Bins", counts(MOST_BINS), (i) => set({ bins: i + 1 }));
  const samples = choice(menus, "Samples", counts(MOST_SAMPLES), (i) => set({ samples: i + 1 }));
  const chosen = choice(menus, "Shown bin", [], (i) =>
    set({ selected: [Math.floor(i / shown.bins), i % shown.bins] }));
  const status = make("p", "labkit-status", el);
  status.setAttribute("role", "status");
  const above = make("div", "labkit-offline-panels", el);
  const original = picture && panel(above, "The image. Dashed: the box", width, height);
  const rows = make("div", "labkit-offline-panels", el);
  const parts = Object.keys(COLORS).map((name) => {
    const column = make("div", "", rows);
    const title = `${name} ${TITLES[name]}. Dashed: the box; black: one bin, and its points`;
    return {
      name, map: panel(column, title, width, height), output: panel(column, "", 1, 1),
      bin: panel(column, "That bin up close: each cell's value, and × its weight", 1, 1),
    };
  });
  const sums = make("pre", "", el);
  make("p", "", el, HELP);

  const set = (changes) => {
    Object.assign(shown, changes);
    const last = shown.bins - 1;
    shown.selected = shown.selected.map((i) => Math.min(i, last));
    update();
  };
  // Move a box onto the map; its sides are at least one step long.
  const onMap = (x, y, w, h) => {
    [w, h] = [limit(w, STEP, width), limit(h, STEP, height)];
    [x, y] = [limit(x, 0, width - w), limit(y, 0, height - h)];
    set({ box: [x, y, x + w, y + h].map((value) => Math.round(value * 100) / 100) });
  };
  for (const { name, map: { svg }, output } of parts) {
    arrowKeys(svg, `Feature map with the region of ${name}`, (dx, dy, shift) => {
      const [x1, y1, x2, y2] = shown.box;
      if (!shift) return onMap(x1 + dx * STEP, y1 + dy * STEP, x2 - x1, y2 - y1);
      const grown = [x2 - x1 + dx * STEP, y2 - y1 + dy * STEP];
      onMap(x1, y1, Math.min(grown[0], width - x1), Math.min(grown[1], height - y1));
    });
    let from = null;
    svg.addEventListener("pointerdown", (event) => (from = pointIn(svg, event)));
    svg.addEventListener("pointerup", (event) => {
      const to = pointIn(svg, event), start = from;
      from = null;
      if (!start || Math.hypot(to[0] - start[0], to[1] - start[1]) < STEP) return;
      const [x, y] = [0, 1].map((i) => Math.min(start[i], to[i]));
      onMap(x, y, Math.abs(to[0] - start[0]), Math.abs(to[1] - start[1]));
    });
    output.svg.addEventListener("click", (event) => {
      const [x, y] = pointIn(output.svg, event).map(Math.floor);
      set({ selected: [limit(y, 0, shown.bins - 1), limit(x, 0, shown.bins - 1)] });
    });
  }
  const shade = (value) => {
    const i = Math.round(((value - low) / (high - low || 1)) * (shades.length - 1));
    return `rgb(${shades[i].join()})`;
  };
  const background = mapPicture(map, shade);

  function update() {
    const readings = sampleOperators(map, shown), window = windowOf(readings, map);
    bins.selectedIndex = shown.bins - 1;
    samples.selectedIndex = shown.samples - 1;
    if (chosen.options.length !== shown.bins ** 2) {
      chosen.replaceChildren();
      for (let i = 0; i < shown.bins ** 2; i++) {
        const place = `row ${Math.floor(i / shown.bins) + 1}, column ${(i % shown.bins) + 1}`;
        make("option", "", chosen, place);
      }
    }
    chosen.selectedIndex = shown.selected[0] * shown.bins + shown.selected[1];
    if (original) {
      original.svg.replaceChildren();
      const place = { width, height, href: picture, preserveAspectRatio: "none" };
      draw("image", place, original.svg);
      frame(original.svg, shown.box, "#fff", 1.8, "5 3");
      original.svg.setAttribute("role", "img");
      original.svg.setAttribute("aria-label", `The image with the box, ${span(shown.box)}`);
    }
    for (const part of parts) {
      const reading = readings[part.name];
      drawMap(part.map.svg, background, map, shown, reading, COLORS[part.name]);
      drawOutput(part.output, shown, reading, part.name, shade, (low + high) / 2);
      drawBin(part.bin.svg, map, shown, reading, window, COLORS[part.name]);
    }
    const lines = Object.entries(readings).map(([name, reading]) => arithmetic(name, reading));
    sums.textContent = lines.join("\n");
    status.textContent = headline(shown, readings);
    el.dataset.ready = String(Number(el.dataset.ready ?? 0) + 1);
  }
  update();
}

// The map as a picture of a pixel a cell.
function mapPicture({ height, width, cells }, shade) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  cells.forEach((value, i) => {
    context.fillStyle = shade(value);
    context.fillRect(i % width, Math.floor(i / width), 1, 1);
  });
  return canvas.toDataURL();
}

function drawMap(svg, background, { height, width }, { box, bins }, reading, color) {
  svg.replaceChildren();
  const pixels = { style: "image-rendering: pixelated" };
  draw("image", { width, height, href: background, ...pixels }, svg);
  const line = { stroke: "#fff", "stroke-width": 0.7, "vector-effect": "non-scaling-stroke" };
  const [x1, y1, x2, y2] = reading.region;
  if (reading.samples.length) // RoIPool's bins overlap: lines between them would not be true
    for (let i = 1; i < bins; i++) {
      const x = x1 + (i / bins) * (x2 - x1), y = y1 + (i / bins) * (y2 - y1);
      draw("line", { x1: x, x2: x, y1, y2, ...line }, svg);
      draw("line", { y1: y, y2: y, x1, x2, ...line }, svg);
    }
  frame(svg, reading.region, color, 3);
  if (String(reading.region) !== String(box)) frame(svg, box, "#fff", 1.3, "5 3");
  frame(svg, reading.bin, "#000", 1.4);
  for (const { x, y } of reading.samples)
    draw("circle", { cx: x, cy: y, r: width / 150, fill: "#fff" }, svg);
}

function drawOutput({ svg, caption }, { bins, selected }, reading, name, shade, middle) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${bins} ${bins}`);
  svg.setAttribute("role", "img");
  const values = reading.output.map(format);
  svg.setAttribute("aria-label", `What ${name} returns, row by row: ${values.join(" ")}`);
  reading.output.forEach((value, i) => {
    const x = i % bins, y = Math.floor(i / bins);
    draw("rect", { x, y, width: 1.01, height: 1.01, fill: shade(value) }, svg);
    draw("text", {
      x: x + 0.5, y: y + 0.58, "text-anchor": "middle", "font-size": 0.26,
      fill: value > middle ? "#000" : "#fff",
    }, svg, values[i]);
  });
  const [row, column] = selected;
  frame(svg, [column, row, column + 1, row + 1], "#000", 2.4);
  caption.textContent = `${name} returns ${bins} × ${bins} bins; the framed one is ` +
    format(reading.value);
}

// The cells that are shown up close, the same for all operators: left, top, right, bottom.
function windowOf(readings, { height, width }) {
  const corners = [];
  for (const { bin: [x1, y1, x2, y2], samples, weights } of Object.values(readings)) {
    if (samples.length || x2 > x1)
      corners.push([Math.floor(x1), Math.floor(y1), Math.ceil(x2), Math.ceil(y2)]);
    for (const cell of weights.keys()) {
      const [row, column] = cell.split(",").map(Number);
      corners.push([column, row, column + 1, row + 1]);
    }
  }
  const least = (i) => Math.min(...corners.map((corner) => corner[i]));
  const most = (i) => Math.max(...corners.map((corner) => corner[i]));
  const left = limit(least(0), 0, width - 1), top = limit(least(1), 0, height - 1);
  const right = Math.max(limit(most(2), 0, width), left + 1);
  return [left, top, right, Math.max(limit(most(3), 0, height), top + 1)];
}

function drawBin(svg, map, { box }, reading, [left, top, right, bottom], color) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `${left} ${top} ${right - left} ${bottom - top}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", arithmetic("The bin", reading));
  const most = Math.max(...reading.weights.values(), 1e-12);
  const small = Math.max(right - left, bottom - top) > 14;
  draw("rect", { x: left, y: top, width: right - left, height: bottom - top, fill: "#fff" }, svg);
  for (let row = top; row < bottom; row++)
    for (let column = left; column < right; column++) {
      const weight = reading.weights.get([row, column].join()) ?? 0;
      draw("rect", {
        x: column, y: row, width: 1, height: 1, fill: color, "fill-opacity": (0.6 * weight) / most,
        stroke: "#999", "stroke-width": 0.6, "vector-effect": "non-scaling-stroke",
      }, svg);
      if (small) continue; // a page of such numbers says nothing
      const text = { "font-size": 0.24, fill: weight > 0 ? "#000" : "#666" };
      draw("text", { x: column + 0.05, y: row + 0.27, ...text }, svg,
        format(map.cells[row * map.width + column]));
      if (weight >= 0.005)
        draw("text", { x: column + 0.95, y: row + 0.92, "text-anchor": "end", ...text }, svg,
          `×${weight.toFixed(2)}`);
    }
  frame(svg, box, "#555", 1.2, "5 3");
  frame(svg, reading.bin, "#000", 1.6);
  reading.samples.forEach(({ x, y }, i) => {
    draw("circle", { cx: x, cy: y, r: 0.14, fill: "#fff", stroke: "#000", "stroke-width": 0.03 }, svg);
    if (reading.samples.length <= WRITTEN_OUT)
      draw("text", { x, y: y + 0.07, "text-anchor": "middle", "font-size": 0.2 }, svg, String(i + 1));
  });
}

function headline({ box, selected: [row, column] }, readings) {
  const values = Object.entries(readings).map(([name, { value }]) => `${name} ${format(value)}`);
  return `Box ${span(box)}. Bin in row ${row + 1}, column ${column + 1}: ${values.join(", ")}.`;
}

// The arithmetic of a bin in words.
function arithmetic(name, { samples, value, bin: [x1, y1, x2, y2] }) {
  if (!samples.length) {
    const cells = Math.round((x2 - x1) * (y2 - y1));
    return `${name}: ${cells ? `Largest of ${cells} cells: ${format(value)}.` : "No cell: 0."}`;
  }
  const written = samples.slice(0, WRITTEN_OUT).map((sample, i) => {
    const terms = sample.taps.map((tap) => `${tap.weight.toFixed(2)}·${format(tap.value)}`);
    const sum = `${terms.join(" + ") || "off the map"} = ${format(sample.value)}`;
    return `point ${i + 1} at (${sample.x.toFixed(2)}, ${sample.y.toFixed(2)}): ${sum}`;
  });
  const more = samples.length - written.length;
  const rest = more ? ` (${more} of them are not written out here.)` : "";
  const mean = `Mean of all ${samples.length} points: ${format(value)}.${rest}`;
  return `${name}: ${[...written, mean].join("\n  ")}`;
}
