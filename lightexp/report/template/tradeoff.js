/* The trade-off plot: the task's metric against size on a logarithmic axis. */
const MAX_MARKS = 1000; // points up to which each is a mark; more are one picture
const MAX_LABELLED = 60; // rows up to which marks have labels
const PICK_RADIUS = 8; // pixels around the pointer in which a point of the picture is found
const COLOURS = { control: "#000000", front: "#D55E00", row: "#0072B2", external: "#7F7F7F", infeasible: "#7F7F7F" };
const SHAPES = {
  control: "M-6 -6H6V6H-6Z", front: "M0 -8L7 0L0 8L-7 0Z", row: "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0 -6 0Z", external: "M0 -7L7 6H-7Z",
  infeasible: "M-5 -6L0 -1L5 -6L6 -5L1 0L6 5L5 6L0 1L-5 6L-6 5L-1 0L-6 -5Z",
};
const dots = new Map(); // the circle of each run
let markSelected = () => {};
const isDrawable = (point) => isNumber(point.x) && point.x > 0 && isNumber(point.y);
const isBetter = (value, other) => data.direction === "max" ? value > other : value < other;
let firstRuns = null; // once they are needed: the run with the smallest seed of each row

/* Return the run of a row with the smallest seed, if it has runs. */
function findFirstRun(row) {
  if (!firstRuns) {
    firstRuns = new Map();
    for (const run of runs) if (!firstRuns.has(run.row) || run.seed < firstRuns.get(run.row).seed) firstRuns.set(run.row, run);
  }
  return firstRuns.get(row);
}

/* Return the contents of the tip of a row, or else of a run. */
function describe(run, row) {
  const head = row ? `${row.title}${row.n ? `, mean of ${row.n} seeds` : ""}` : `${run.title}, seed ${run.seed}`;
  const metrics = data.columns.map((column, index) => {
    const text = row ? row.statistic(index, "text") : run.text(index);
    return row && !text ? null : `${column.heading}: ${text}`;
  });
  return [make("b", {}, head), ...metrics.filter(Boolean).concat(run ? run.settings : row.note || []).map((text) => make("div", {}, text))];
}

/* Make the event handlers that show a tip at the pointer; `makeContents` returns its contents, or null for no tip. */
function makeTipHandlers(makeContents) {
  const tip = $("#tip");
  const move = (event) => {
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  const show = (event) => {
    const contents = makeContents(event);
    tip.hidden = !contents;
    if (!contents) return;
    tip.replaceChildren(...contents);
    move(event);
  };
  return { onmouseenter: show, onmousemove: move, onmouseleave: () => { tip.hidden = true; } };
}

/* Return the plot's size, the box within its axes, the ranges of both axes, and where points lie. */
function makeScales(points) {
  const width = Math.max(320, $("#front .plot").clientWidth), height = Math.round(Math.min(560, Math.max(300, width * 0.44)));
  const box = { left: 62, right: width - 16, top: 12, bottom: height - 44 };
  const findRange = (values, extent) => { // of equal values: `extent` is what the range would be
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const margin = (high - low || extent) * 0.08;
    return [low - margin, high + margin];
  };
  const [x0, x1] = findRange(points.map((point) => Math.log2(point.x)), 1), [y0, y1] = findRange(points.map((point) => point.y), 0.01);
  return {
    width, height, box, x0, x1, y0, y1,
    px: (x) => box.left + (Math.log2(x) - x0) / (x1 - x0) * (box.right - box.left),
    py: (y) => box.bottom - (y - y0) / (y1 - y0) * (box.bottom - box.top),
  };
}

function formatBytes(size) {
  if (size < 1024) return `${+size.toPrecision(3)} B`;
  return size < 1048576 ? `${+(size / 1024).toPrecision(3)} KiB` : `${+(size / 1048576).toPrecision(3)} MiB`;
}

function drawAxes(svg, { width, height, box, x0, x1, y0, y1, px, py }) {
  const octave = (box.right - box.left) / (x1 - x0); // pixels
  const stride = Math.max(1, Math.ceil(90 / octave));
  for (let power = Math.floor(x0 / stride) * stride; power <= x1; power += stride) {
    for (const level of octave > 180 ? [2 ** power, 1.5 * 2 ** power] : [2 ** power]) {
      if (Math.log2(level) < x0 || Math.log2(level) > x1) continue;
      const x = px(level);
      svg.append(make("svg:line", { class: "rule", x1: x, x2: x, y1: box.top, y2: box.bottom }), make("svg:text", { x, y: box.bottom + 16, "text-anchor": "middle" }, formatBytes(level)));
    }
  }
  const magnitude = 10 ** Math.floor(Math.log10((y1 - y0) / 8));
  const step = data.is_share ? [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((candidate) => (y1 - y0) / candidate <= 8) || 0.5
    : [1, 2, 5, 10].map((factor) => factor * magnitude).find((candidate) => (y1 - y0) / candidate <= 8) || 10 * magnitude;
  const formatShare = (level) => `${(100 * level).toFixed(step < 0.001 ? 2 : step < 0.01 ? 1 : 0)}%`;
  for (let level = Math.ceil(y0 / step) * step; level <= y1; level += step) {
    const y = py(level);
    svg.append(make("svg:line", { class: "rule", x1: box.left, x2: box.right, y1: y, y2: y }), make("svg:text", { x: box.left - 8, y: y + 4, "text-anchor": "end" }, data.is_share ? formatShare(level) : String(+level.toPrecision(6))));
  }
  svg.append(make("svg:path", { class: "axis", fill: "none", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` }),
    make("svg:text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, `${data.axes[0]} (log scale)`),
    make("svg:text", { x: -(box.top + box.bottom) / 2, y: 14, "text-anchor": "middle", transform: "rotate(-90)" }, data.axes[1]));
}

/* Return the rows on the front, by size: each is better than all smaller ones. */
function findFront(drawn) {
  const candidates = drawn.filter((row) => row.kind === "row" || row.kind === "control");
  candidates.sort((a, b) => a.x - b.x || (data.direction === "max" ? b.y - a.y : a.y - b.y));
  const front = new Set();
  let best = data.direction === "max" ? -Infinity : Infinity;
  for (const row of candidates) if (isBetter(row.y, best)) { front.add(row); best = row.y; }
  return front;
}

/* Draw points into a picture, which is shown below the marks, and describe the point that is next to the pointer. */
function drawPicture(svg, { width, height }, points) {
  const scale = devicePixelRatio, canvas = make("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  const pen = canvas.getContext("2d"), cells = new Map(); // the points of each square as wide as the radius
  const findCell = (x, y) => Math.floor(x / PICK_RADIUS) * 1e5 + Math.floor(y / PICK_RADIUS);
  pen.scale(scale, scale);
  for (const point of points) {
    pen.globalAlpha = point.run ? 0.28 : 0.6;
    pen.fillStyle = COLOURS[point.row.kind];
    pen.beginPath();
    pen.arc(point.x, point.y, point.run ? 1.5 : 2.5, 0, 7);
    pen.fill();
    const cell = findCell(point.x, point.y);
    if (cells.has(cell)) cells.get(cell).push(point); else cells.set(cell, [point]);
  }
  const image = make("svg:image", { width, height, href: canvas.toDataURL() });
  const findNearest = (event) => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * width / box.width, y = (event.clientY - box.top) * height / box.height;
    let nearest = null, least = PICK_RADIUS ** 2;
    for (const dx of [-PICK_RADIUS, 0, PICK_RADIUS]) for (const dy of [-PICK_RADIUS, 0, PICK_RADIUS]) {
      for (const point of cells.get(findCell(x + dx, y + dy)) || []) {
        const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (distance < least) [nearest, least] = [point, distance];
      }
    }
    return nearest;
  };
  const tip = makeTipHandlers((event) => { const point = findNearest(event); return point && describe(point.run || findFirstRun(point.row), point.run ? null : point.row); });
  image.addEventListener("mousemove", tip.onmouseenter);
  image.addEventListener("mouseleave", tip.onmouseleave);
  image.addEventListener("click", (event) => { const point = findNearest(event); if (point) toggle(point.run || findFirstRun(point.row)); });
  svg.append(image);
}

/* Draw a row's mark with its standard deviation. */
function drawMark(svg, { box, px, py }, row, kind) {
  const x = px(row.x), y = py(row.y), run = findFirstRun(row);
  if (row.spread) svg.append(make("svg:line", { class: "spread", stroke: COLOURS[kind], x1: x, x2: x, y1: Math.max(box.top, py(row.y + row.spread)), y2: Math.min(box.bottom, py(row.y - row.spread)) }));
  svg.append(make("svg:path", { class: "mark", d: SHAPES[kind], fill: COLOURS[kind], transform: `translate(${x} ${y})`, onclick: () => run && toggle(run), ...makeTipHandlers(() => describe(run, row)) }));
}

/* Draw a row's label where it covers none of the labels in `taken`, to which it is added; leave it out if there is no room. */
function drawLabel(svg, { width, box, px, py }, row, taken) {
  const x = px(row.x), y = py(row.y);
  const label = row.title.length > 36 ? `${row.title.slice(0, 35)}…` : row.title, labelWidth = 6 * label.length;
  const offsets = [[9, -6, 0], [9, 14, 0], [-9 - labelWidth, -6, labelWidth], [-9 - labelWidth, 14, labelWidth], [9, -18, 0]];
  const free = offsets.find(([dx, dy]) => {
    const left = x + dx, top = y + dy - 10;
    return left > box.left && left + labelWidth < width && !taken.some(([l, t, w]) => left < l + w && l < left + labelWidth && top < t + 12 && t < top + 12);
  });
  if (!free) return;
  const [dx, dy, anchor] = free;
  taken.push([x + dx, y + dy - 10, labelWidth]);
  svg.append(make("svg:text", { class: "name", x: x + dx + anchor, y: y + dy, "text-anchor": anchor ? "end" : "start" }, label));
}

function drawPlot() {
  dots.clear();
  const drawn = rows.filter(isDrawable), drawnRuns = runs.filter(isDrawable), isMany = drawn.length + drawnRuns.length > MAX_MARKS;
  if (!drawn.length) { $("#front").hidden = true; return; }
  const scales = makeScales([...drawn, ...drawnRuns]), { width, height, px, py } = scales;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": data.axes.join(" against ") });
  drawAxes(svg, scales);
  const front = findFront(drawn);
  const isMark = (row) => !isMany || front.has(row) || row.kind === "control" || row.kind === "external";
  const marked = drawn.filter(isMark).sort((a, b) => front.has(b) - front.has(a));
  if (isMany) {
    drawPicture(svg, scales, [
      ...drawnRuns.map((run) => ({ x: px(run.x), y: py(run.y), run, row: run.row })),
      ...drawn.filter((row) => !isMark(row)).map((row) => ({ x: px(row.x), y: py(row.y), row })),
    ]);
    $("#front .many").textContent = `Of ${drawn.length} rows, ${marked.length} are marks: the front, the control and published ones. The others and the ${drawnRuns.length} runs are one picture, without standard deviations.`;
  }
  svg.append(make("svg:path", { class: "step", d: [...front].map((row, index) => index ? `H${px(row.x)}V${py(row.y)}` : `M${px(row.x)} ${py(row.y)}`).join("") }));
  for (const run of isMany ? [] : drawnRuns) {
    const dot = make("svg:circle", { cx: px(run.x), cy: py(run.y), r: 3.5, onclick: () => toggle(run), ...makeTipHandlers(() => describe(run)) });
    dots.set(run, dot);
    svg.append(dot);
  }
  const taken = [];
  for (const row of marked) {
    drawMark(svg, scales, row, row.kind === "row" && front.has(row) ? "front" : row.kind);
    if (drawn.length <= MAX_LABELLED) drawLabel(svg, scales, row, taken);
  }
  const selection = make("svg:g");
  markSelected = () => selection.replaceChildren(...(isMany ? [...selected].filter(isDrawable) : []).map((run) => make("svg:circle", { class: "selected", cx: px(run.x), cy: py(run.y), r: 5 })));
  svg.append(selection);
  $("#front .plot").replaceChildren(svg);
}
