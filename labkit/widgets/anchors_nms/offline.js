// The anchor and NMS explorer in a page without a kernel: scene.py and figure.py in JavaScript.
// A level has its anchors, moved boxes and scores as flat arrays, and `best`, the indices of its
// best boxes.

const BLUE = "#3f90da", RED = "#bd1f01", MOST_BOXES = 20;
const OF_RATIO = ["#ffa90e", "#92dadd", "#832db6", "#a96b59", "#b9ac70"];
const DASHES = ["", "6 3", "6 3 2 3", "2 3"];
const HELP =
  "Click on a cell in 1, or on a box in 3 or its row. Keys, with picture 1 focused: arrows choose " +
  "the cell, Shift with left and right takes a step back or forth.";
const floats = (view) => new Float32Array(view.buffer);
const boxAt = (boxes, i) => boxes.subarray(4 * i, 4 * i + 4);
const two = (value) => value.toFixed(2);

// Steps of non-maximum suppression among boxes in the order of their scores:
// labkit/ops/nms.py, with its rounding to float32.
function nmsSteps(boxes, threshold) {
  const steps = [];
  let left = boxes.map((_, i) => i);
  while (left.length) {
    const [kept, ...rest] = left, suppressed = [];
    left = rest.filter((i) => {
      const iou = iouOf(boxes[kept], boxes[i]);
      if (iou > threshold) suppressed.push({ index: i, iou });
      return !(iou > threshold);
    });
    steps.push({ kept, suppressed });
  }
  return steps;
}

function iouOf(a, b) {
  const f = Math.fround;
  const area = ([x1, y1, x2, y2]) => f(f(x2 - x1) * f(y2 - y1));
  const side = (low, high) =>
    Math.max(f(Math.min(a[high], b[high]) - Math.max(a[low], b[low])), 0);
  const both = f(side(0, 2) * side(1, 3));
  return f(both / f(f(area(a) + area(b)) - both));
}

function start(el, { picture, size, levels, shown: initial }) {
  const [height, width] = size;
  for (const level of levels)
    for (const name of ["anchors", "boxes", "scores"]) level[name] = floats(level[name]);
  const shown = { ...initial };
  let scene = null;

  const menus = make("div", "labkit-offline-row", el);
  const level = choice(menus, "Level", levels.map(({ name }) => name), (index) => {
    Object.assign(shown, { level: index, ratio: null, cell: null, done: 1, box: null });
    update();
  });
  const ratio = choice(menus, "Anchors", [], (index) =>
    set({ ratio: index ? levels[shown.level].ratios[index - 1] : null }));
  const box = choice(menus, "Box", [], (index) => set({ box: index || null, cell: null }));
  const setCount = range(menus, "Boxes", [1, MOST_BOXES, 1], (count) => set({ count }));
  const setThreshold = range(menus, "NMS above", [0, 1, 0.05], (threshold) => set({ threshold }));
  const buttons = make("div", "labkit-offline-row", el);
  const back = press(buttons, "Step back", () => set({ done: shown.done - 1 }));
  const next = press(buttons, "Next step", () => set({ done: shown.done + 1 }));
  const status = make("p", "labkit-status", el);
  status.setAttribute("role", "status");
  const panels = make("div", "labkit-offline-panels", el);
  const anchors = panel(panels, "", width, height);
  const moved = panel(panels, "", width, height);
  const nms = panel(panels, "", width, height);
  const scroll = make("div", "labkit-offline-scroll", panels);
  const table = make("table", "", scroll);
  make("p", "", el, HELP);

  const set = (changes) => {
    Object.assign(shown, changes);
    update();
  };
  arrowKeys(anchors.svg, "Anchors of a cell", (dx, dy, shift) => {
    if (shift) return set({ done: shown.done + dx });
    const [rows, columns] = scene.level.shape, [row, column] = scene.cell;
    const inside = (value, count) => Math.min(Math.max(value, 0), count - 1);
    set({ cell: [inside(row + dy, rows), inside(column + dx, columns)] });
  });
  anchors.svg.addEventListener("click", (event) => {
    const [x, y] = pointIn(anchors.svg, event), { shape } = scene.level;
    const cells = Array.from({ length: shape[0] * shape[1] }, (_, i) => i);
    const far = (i) => {
      const [cx, cy] = centre(scene.level, i);
      return (cx - x) ** 2 + (cy - y) ** 2;
    };
    const best = cells.reduce((a, b) => (far(b) < far(a) ? b : a));
    set({ cell: [Math.floor(best / shape[1]), best % shape[1]] });
  });
  nms.svg.addEventListener("click", (event) => {
    const point = pointIn(nms.svg, event);
    const drawn = scene.boxes.map((_, i) => i).filter((i) => isDrawn(scene, i));
    if (!drawn.length) return;
    const far = (i) => distance(scene.boxes[i], point);
    set({ box: drawn.reduce((a, b) => (far(b) < far(a) ? b : a)) + 1, cell: null });
  });

  function update() {
    scene = sceneOf(levels, shown);
    Object.assign(shown, { done: scene.done, box: scene.box, threshold: scene.threshold });
    fill(ratio, ["all ratios", ...scene.level.ratios.map((r) => `ratio ${r}`)]);
    fill(box, ["none", ...scene.boxes.map((_, i) => String(i + 1))]);
    level.selectedIndex = shown.level;
    ratio.selectedIndex = scene.level.ratios.indexOf(shown.ratio) + 1;
    box.selectedIndex = scene.box ?? 0;
    setCount(shown.count);
    setThreshold(scene.threshold);
    back.disabled = scene.done === 0;
    next.disabled = scene.done === scene.steps.length;
    for (const { svg } of [anchors, moved, nms]) {
      svg.replaceChildren();
      const whole = { x: 0, y: 0, width, height, href: picture };
      draw("image", { ...whole, style: "image-rendering: pixelated" }, svg);
    }
    drawAnchors(anchors, scene, shown);
    drawMoved(moved, scene, shown);
    drawSuppression(nms, scene);
    fillTable(table, scene, (number) => set({ box: number, cell: null }));
    status.textContent = sentences(scene).join(" ");
    nms.svg.setAttribute("role", "img");
    nms.svg.setAttribute("aria-label", sentences(scene).join(" "));
    moved.svg.setAttribute("role", "img");
    moved.svg.setAttribute("aria-label", "The anchors of the cell, and where the network moves them");
    el.dataset.ready = String(Number(el.dataset.ready ?? 0) + 1);
  }
  update();
}

function fill(select, options) {
  if (select.options.length === options.length && select.options[1]?.text === options[1]) return;
  select.replaceChildren();
  for (const option of options) make("option", "", select, option);
}

const perCell = ({ sizes, ratios }) => sizes.length * ratios.length;

function centre(level, cell) {
  const [x1, y1, x2, y2] = boxAt(level.anchors, cell * perCell(level));
  return [(x1 + x2) / 2, (y1 + y2) / 2];
}

function sceneOf(levels, shown) {
  const level = levels[shown.level];
  const best = level.best.slice(0, shown.count);
  const boxes = best.map((i) => boxAt(level.boxes, i));
  const threshold = shown.threshold ?? level.nms;
  const steps = nmsSteps(boxes, threshold);
  const done = Math.min(Math.max(shown.done ?? 1, 0), steps.length);
  const box = shown.box !== null && shown.box <= boxes.length ? shown.box : null;
  let cell = shown.cell;
  if (!cell && best.length) {
    const index = Math.floor(best[(box ?? 1) - 1] / perCell(level));
    cell = [Math.floor(index / level.shape[1]), index % level.shape[1]];
  }
  const scores = best.map((i) => level.scores[i]);
  return { level, boxes, scores, threshold, steps, done, box, cell: cell ?? [0, 0] };
}

// What happened to a box in the steps that are done.
function fate({ steps, done }, index) {
  for (const [i, { kept, suppressed }] of steps.slice(0, done).entries()) {
    if (kept === index) return { kind: "kept", step: i + 1, iou: 1 };
    const gone = suppressed.find((one) => one.index === index);
    if (gone) return { kind: "suppressed", step: i + 1, iou: gone.iou };
  }
  return { kind: "waiting", step: null, iou: 0 };
}

function isDrawn(scene, index) {
  const { kind, step } = fate(scene, index);
  return kind !== "suppressed" || step === scene.done || index + 1 === scene.box;
}

// From a point to the outline of a box.
function distance([x1, y1, x2, y2], [x, y]) {
  const dx = Math.max(x1 - x, x - x2), dy = Math.max(y1 - y, y - y2);
  if (dx < 0 && dy < 0) return -Math.max(dx, dy);
  return Math.hypot(Math.max(dx, 0), Math.max(dy, 0));
}

function fateText(scene, index) {
  const { kind, step, iou } = fate(scene, index);
  if (kind === "kept") return `kept in step ${step}`;
  if (kind === "waiting") return "waiting";
  return `suppressed by ${scene.steps[step - 1].kept + 1}, IoU ${two(iou)}`;
}

function sentences(scene) {
  return [stepSentence(scene), ...(scene.box === null ? [] : [boxSentence(scene, scene.box - 1)])];
}

function stepSentence({ steps, done, boxes, scores, threshold }) {
  if (!steps.length) return "This level proposes no boxes for this image.";
  if (done === 0) return `Before the first step: ${boxes.length} boxes, numbered by score.`;
  const { kept, suppressed } = steps[done - 1];
  const best = `${kept + 1} (score ${two(scores[kept])})`;
  const keeps = `Step ${done} of ${steps.length} keeps the best box left, ${best}`;
  if (!suppressed.length)
    return `${keeps}. No box left overlaps it with an IoU above ${two(threshold)}.`;
  const gone = suppressed.map(({ index, iou }) => `box ${index + 1} (IoU ${two(iou)})`).join(", ");
  return `${keeps}, and suppresses what overlaps it with an IoU above ${two(threshold)}: ${gone}.`;
}

function boxSentence(scene, index) {
  const { kind, step, iou } = fate(scene, index), name = `Box ${index + 1}`;
  if (kind === "waiting") return `${name} is waiting for its turn.`;
  if (kind === "suppressed") {
    const by = scene.steps[step - 1].kept + 1;
    return `${name} is suppressed in step ${step} by box ${by}: their intersection (hatched) is ` +
      `${two(iou)} of their union, more than ${two(scene.threshold)}.`;
  }
  const said = `${name} is kept in step ${step}`;
  const before = scene.steps.slice(0, step - 1).map(({ kept }) => kept);
  if (!before.length) return `${said}, as the best of all.`;
  const overlaps = before.map((other) => iouOf(scene.boxes[index], scene.boxes[other]));
  const most = Math.max(...overlaps);
  if (most === 0) return `${said}: no box kept before touches it.`;
  const best = before[overlaps.indexOf(most)] + 1;
  return `${said}: of those kept before, box ${best} overlaps it most, with an IoU of ${two(most)}.`;
}

// The anchors of the cell that are drawn.
function ofCell({ level, cell: [row, column] }, { ratio }) {
  const first = (row * level.shape[1] + column) * perCell(level);
  return Array.from({ length: perCell(level) }, (_, i) => {
    const nth = i % level.ratios.length;
    return {
      ratio: level.ratios[nth], color: OF_RATIO[nth % OF_RATIO.length],
      dashes: DASHES[nth % DASHES.length], anchor: boxAt(level.anchors, first + i),
      moved: boxAt(level.boxes, first + i), score: level.scores[first + i],
      spread: 0.1 + (0.9 * nth) / level.ratios.length,
    };
  }).filter((one) => ratio === null || one.ratio === ratio);
}

function drawAnchors({ svg, caption }, scene, shown) {
  const { level } = scene, [rows, columns] = level.shape;
  if (rows * columns <= 1500)
    for (let cell = 0; cell < rows * columns; cell++) {
      const [cx, cy] = centre(level, cell);
      draw("circle", { cx, cy, r: 0.6, fill: "#fff" }, svg);
    }
  for (const { anchor, color, dashes, ratio, spread } of ofCell(scene, shown)) {
    frame(svg, anchor, color, 2, dashes);
    label(svg, onOutline(anchor, spread), String(ratio), color);
  }
  caption.textContent =
    `1. Anchors of ${level.name}: ${perCell(level)} at each of its ${rows} × ${columns} cells ` +
    `(dots), size ${level.sizes.join(" and ")} pixels. On them: height / width`;
}

function drawMoved({ svg, caption }, scene, shown) {
  const drawn = ofCell(scene, shown);
  const boxes = drawn.flatMap(({ anchor, moved }) => [anchor, moved]);
  const low = (i) => Math.min(...boxes.map((box) => box[i]));
  const high = (i) => Math.max(...boxes.map((box) => box[i]));
  const side = 1.3 * Math.max(high(2) - low(0), high(3) - low(1));
  const [x, y] = [(low(0) + high(2) - side) / 2, (low(1) + high(3) - side) / 2];
  svg.setAttribute("viewBox", `${x} ${y} ${side} ${side}`);
  for (const { anchor, moved, color, dashes, score, spread } of drawn) {
    frame(svg, anchor, color, 1.2, dashes);
    frame(svg, moved, color, 2.4);
    label(svg, onOutline(moved, spread), two(score), color);
  }
  const [row, column] = scene.cell;
  caption.textContent =
    `2. The network scores and moves them: up close, row ${row + 1}, column ${column + 1}. ` +
    "Thin: anchor, thick: moved, with its score";
}

function drawSuppression({ svg, caption }, scene) {
  const drawn = scene.boxes.map((_, i) => i).reverse().filter((i) => isDrawn(scene, i));
  const style = (index) => {
    const { kind, step } = fate(scene, index);
    if (kind === "kept") return [BLUE, step === scene.done ? 3.4 : 2.2, ""];
    return kind === "suppressed" ? [RED, 2.4, "2 3"] : ["#fff", 1.2, ""];
  };
  for (const index of drawn) {
    const [color, width, dashes] = style(index);
    frame(svg, scene.boxes[index], color, width + 1.4 * (index + 1 === scene.box), dashes);
  }
  drawOverlap(svg, scene);
  for (const index of drawn)
    label(svg, onOutline(scene.boxes[index], 0.12 + 0.381966 * index), String(index + 1),
      style(index)[0]);
  caption.textContent =
    `3. Suppression among the level's ${scene.boxes.length} best boxes, after step ${scene.done} ` +
    `of ${scene.steps.length}. Blue: kept; red, dotted: suppressed in this step; white: waiting`;
}

// Hatch the intersection of the chosen box with the box that suppressed it.
function drawOverlap(svg, scene) {
  if (scene.box === null) return;
  const { kind, step } = fate(scene, scene.box - 1);
  if (kind !== "suppressed") return;
  const a = scene.boxes[scene.steps[step - 1].kept], b = scene.boxes[scene.box - 1];
  const x = Math.max(a[0], b[0]), y = Math.max(a[1], b[1]);
  const place = { x, y, width: Math.min(a[2], b[2]) - x, height: Math.min(a[3], b[3]) - y };
  const id = `labkit-hatch-${Math.random().toString(36).slice(2)}`;
  const hatch = draw("pattern", {
    id, width: 3, height: 3, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  }, svg);
  draw("rect", { width: 1, height: 3, fill: RED }, hatch);
  draw("rect", { ...place, fill: "rgb(255 255 255 / 25%)" }, svg);
  draw("rect", { ...place, fill: `url(#${id})` }, svg);
}

// A word on an outline, moved into the drawing where the outline leaves it.
function label(svg, [x, y], text, color) {
  const [left, top, width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  const unit = width / 128, w = (2.2 + 2.6 * text.length) * unit, h = 5.4 * unit;
  const inside = (value, low, high) => Math.min(Math.max(value, low), high);
  const cx = inside(x, left + w / 2, left + width - w / 2);
  const cy = inside(y, top + h / 2, top + height - h / 2);
  const bright = /^#(fff|ff|92|b9)/.test(color);
  draw("rect", {
    x: cx - w / 2, y: cy - h / 2, width: w, height: h, rx: unit, fill: color, stroke: "#000",
    "stroke-width": 0.3 * unit,
  }, svg);
  draw("text", {
    x: cx, y: cy + 1.6 * unit, "text-anchor": "middle", "font-size": 4.6 * unit,
    fill: bright ? "#000" : "#fff",
  }, svg, text);
}

// The point on a box's outline at a part of the outline's length.
function onOutline([x1, y1, x2, y2], part) {
  const width = x2 - x1, height = y2 - y1;
  let way = (part % 1) * 2 * (width + height);
  for (const [length, x, y, dx, dy] of [
    [width, x1, y1, 1, 0], [height, x2, y1, 0, 1], [width, x2, y2, -1, 0],
  ]) {
    if (way <= length) return [x + dx * way, y + dy * way];
    way -= length;
  }
  return [x1, y2 - way];
}

function fillTable(table, scene, choose) {
  table.replaceChildren();
  const head = make("tr", "", make("thead", "", table));
  for (const name of ["box", "score", "so far"]) make("th", "", head, name).scope = "col";
  const body = make("tbody", "", table);
  scene.scores.forEach((score, index) => {
    const row = make("tr", "", body), { kind, step } = fate(scene, index);
    make("th", "", row, String(index + 1)).scope = "row";
    make("td", "", row, two(score));
    make("td", "", row, fateText(scene, index));
    if (kind === "kept") row.style.fontWeight = "600";
    if (step === scene.done) row.style.background = "rgb(128 128 128 / 25%)";
    if (index + 1 === scene.box) row.style.outline = "2px solid";
    row.addEventListener("click", () => choose(index + 1));
  });
}
