"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 200; // rows up to which a table is drawn whole; of longer ones, the rows in view
const MARGIN = 20; // rows that are drawn above and below those in view
const MAX_MARKS = 1000; // points up to which each is a mark; more are one picture
const MAX_NOTES = 100; // notes of rows below the table
const SVG = "http://www.w3.org/2000/svg";
const selected = new Set();
const $ = (selector) => document.querySelector(selector);
const finite = (value) => typeof value === "number" && Number.isFinite(value);

/* Make an element with attributes and children; text never becomes markup. */
function make(name, attributes, ...children) {
  const element = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/* A value of a column as `lightexp.report.page_data.pack` writes it. */
const at = (column, index) => Array.isArray(column) ? column[index] : "of" in column ? column.of[column.at[index]] : column.same;

/* A row of the report; it reads its values from the columns when they are needed. */
class Line {
  constructor(index) { this.index = index; }
  get name() { return at(data.rows.name, this.index); }
  get title() { return at(data.rows.title, this.index) ?? this.name; }
  get label() { return at(data.rows.label, this.index) ?? this.title; }
  get kind() { return at(data.rows.kind, this.index); }
  get n() { return at(data.rows.n, this.index); }
  get note() { return at(data.rows.note, this.index); }
  get front() { return at(data.rows.front, this.index); }
  get change() { return at(data.rows.change, this.index); }
  get changed() { return at(data.rows.changed, this.index); }
  get x() { return at(data.rows.x, this.index); }
  get y() { return at(data.rows.y, this.index); }
  get spread() { return at(data.rows.spread, this.index); }
  cell(column, name) { return at(data.rows.metrics[column][name], this.index); }
  difference(column, name) { return at(data.rows.metrics[column].difference[name], this.index); }
  value(name) { const column = columnOf(name); return column < 0 ? null : this.cell(column, "mean"); }
  get text() { return this.words ??= [this.name, this.label, this.kind, this.note].join(" ").toLowerCase(); }
}

class Run {
  constructor(index) { this.index = index; }
  get id() { return at(data.runs.id, this.index); }
  get line() { return lines[at(data.runs.row, this.index)]; }
  get seed() { return at(data.runs.seed, this.index); }
  get command() { return at(data.runs.command, this.index); }
  get host() { return at(data.runs.host, this.index); }
  get x() { return at(data.runs.x, this.index); }
  get y() { return at(data.runs.y, this.index); }
  number(column) { return at(data.runs.values[column], this.index); }
  show(column) { return at(data.runs.texts[column], this.index); }
  value(name) { const column = columnOf(name); return name === "seed" ? this.seed : column < 0 ? null : this.number(column); }
  setting(name) { return at(data.settings[name], at(data.runs.config, this.index)); }
  get settings() { return settingNames.filter((name) => this.setting(name) !== null).map((name) => `${name}=${this.setting(name)}`); }
  get text() { return this.words ??= [this.line.name, this.line.title, `seed=${this.seed}`, this.id, ...this.settings].join(" ").toLowerCase(); }
}
const columnOf = (name) => data.columns.findIndex((column) => column.name === name);
const settingNames = Object.keys(data.settings);
const lines = Array.from({ length: data.rows.count }, (_, index) => new Line(index));
const runs = Array.from({ length: data.runs.count }, (_, index) => new Run(index));

/* A filter from a query: all its words must occur; comparisons such as size/file_bytes<20000 or seed=0 must hold. */
function matcher(query) {
  const tests = query.trim().split(/\s+/).filter(Boolean).map((word) => {
    const match = /^([\w/.]+)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)$/i.exec(word);
    if (!match) {
      const lower = word.toLowerCase();
      return (item) => item.text.includes(lower);
    }
    const [, name, sign, limit] = match;
    const number = Number(limit);
    return (item) => {
      const value = item.value(name);
      if (!finite(value)) return item.text.includes(word.toLowerCase());
      return { "<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number, "=": value === number }[sign];
    };
  });
  return (item) => tests.every((test) => test(item));
}

/* Make a table's body in a scrolling place. Of many items it holds the rows in view, which arrow keys and paging reach too. */
function makeBody(place, table, row, pick) {
  const body = make("tbody"), above = make("td"), below = make("td");
  const printed = make("p", { class: "quiet printed" });
  const gaps = [above, below].map((cell) => make("tbody", { class: "gap", "aria-hidden": "true" }, make("tr", {}, cell)));
  const heads = [...table.querySelectorAll("th")], widths = heads.map(() => 0);
  let items = [], start = 0, end = 0, height = 30, active = -1;
  const isLong = () => items.length > PAGE;
  const rowAt = (index) => index >= start && index < end ? body.children[index - start] : null;
  function view() {
    const room = place.clientHeight - table.tHead.offsetHeight;
    return [Math.floor(place.scrollTop / height), Math.ceil((place.scrollTop + room) / height)];
  }
  function fill(from, to) {
    const hadFocus = body.contains(document.activeElement);
    [start, end] = [from, to];
    body.replaceChildren(...items.slice(start, end).map((item, index) => {
      const line = row(item);
      if (isLong()) { line.setAttribute("aria-rowindex", start + index + 2); line.tabIndex = -1; }
      return line;
    }));
    if (!isLong()) return;
    above.style.height = `${start * height}px`;
    below.style.height = `${(items.length - end) * height}px`;
    if (hadFocus) (rowAt(active) || place).focus({ preventScroll: true });
    heads.map((head) => head.offsetWidth).forEach((width, index) => {
      if (width > widths[index]) heads[index].style.minWidth = `${widths[index] = width}px`; // columns do not jump
    });
  }
  function scroll() {
    if (!isLong() || !table.isConnected) return; // another table may have taken its place
    const [top, bottom] = view();
    if (top < start || Math.min(bottom, items.length) > end) fill(Math.max(0, top - MARGIN), Math.min(items.length, bottom + MARGIN));
  }
  function show(shown) {
    active = shown.indexOf(items[active]); // of a row that is filtered away, nothing is left to pick
    items = shown;
    place.classList.toggle("tall", isLong());
    printed.textContent = isLong() ? `Of ${items.length} rows, those in view were printed. All are in the CSV files next to this page.` : "";
    if (isLong()) { body.before(gaps[0]); body.after(gaps[1]); }
    else {
      gaps.forEach((gap) => gap.remove());
      table.removeAttribute("aria-rowcount");
      place.removeAttribute("tabindex");
      fill(0, items.length);
      return;
    }
    table.setAttribute("aria-rowcount", items.length + 1);
    table.tHead.rows[0].setAttribute("aria-rowindex", 1);
    place.tabIndex = 0;
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", place.closest("section").querySelector("h2").textContent);
    const [top, bottom] = view();
    fill(Math.max(0, Math.min(top, items.length) - MARGIN), Math.min(items.length, bottom + MARGIN));
    height = body.rows[0].getBoundingClientRect().height || height;
    fill(start, end);
  }
  function activate(index) {
    active = Math.max(0, Math.min(items.length - 1, index));
    const [top, bottom] = view();
    if (active <= top) place.scrollTop = active * height;
    else if (active >= bottom - 1) place.scrollTop = (active + 1) * height - (place.clientHeight - table.tHead.offsetHeight);
    scroll();
    const line = rowAt(active), box = line.getBoundingClientRect(), frame = place.getBoundingClientRect();
    place.scrollTop += Math.min(0, box.top - frame.top - table.tHead.offsetHeight) + Math.max(0, box.bottom - frame.top - place.clientHeight);
    line.focus({ preventScroll: true });
  }
  place.addEventListener("scroll", scroll);
  place.addEventListener("keydown", (event) => {
    if (!isLong() || !table.isConnected || event.target.closest("thead")) return;
    const [top, bottom] = view();
    const from = body.contains(event.target) ? active : top - 1, page = Math.max(1, bottom - top - 2);
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, PageDown: from + page, PageUp: from - page, Home: 0, End: items.length - 1 }[event.key];
    if (to !== undefined) activate(to);
    else if (pick && active >= 0 && (event.key === "Enter" || event.key === " ")) pick(items[active]);
    else return;
    event.preventDefault();
  });
  table.append(body);
  place.after(printed);
  return show;
}

/* Make a table that sorts by its headings and is filtered by its section's search box. */
function sortable(section, heads, items, row, pick) {
  const place = $(`${section} .wide`);
  const box = $(`${section} input`);
  const count = $(`${section} .tools span`);
  const compare = new Intl.Collator().compare;
  let by = null, down = false;
  const cells = heads.map((head, index) => make("th", { scope: "col", title: head.title },
    make("button", { type: "button", onclick: () => { down = by === index ? !down : head.down; by = index; draw(); } }, head.label)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells)));
  place.replaceChildren(table);
  const show = makeBody(place, table, row, pick);
  function draw() {
    let matching = box && box.value.trim() ? items.filter(matcher(box.value)) : items;
    if (by !== null) {
      const key = heads[by].key;
      matching = matching.map((item) => [key(item), item]).sort(([a], [b]) => {
        const missing = (value) => value === null || value === undefined || value === "";
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = typeof a === "number" && typeof b === "number" ? a - b : compare(String(a), String(b));
        return down ? -order : order;
      }).map(([, item]) => item);
    }
    cells.forEach((cell, index) => cell.setAttribute("aria-sort", by === index ? (down ? "descending" : "ascending") : "none"));
    show(matching);
    if (count) count.textContent = `${matching.length} of ${items.length} shown${matching.length > PAGE ? ", drawn as they come into view: find rows by this filter" : ""}`;
  }
  if (box) box.addEventListener("input", () => { place.scrollTop = 0; draw(); });
  draw();
  return draw;
}

/* The header. */
$("#title").textContent = data.title;
$("#claim").textContent = data.claim;
$("#reference").textContent = [data.reference, data.cost && `Cost: ${data.cost}`].filter(Boolean).join(" · ");
for (const [label, value] of data.cards) $("#cards").append(make("div", { class: "card" }, make("b", {}, value), make("span", {}, label)));
$("#asked").hidden = data.questions.length === 0;
$("#asked ul").append(...data.questions.map((words) => make("li", {}, words)));

/* The table of rows. */
const withChange = (columns, change) => [...columns.slice(0, data.place), change, ...columns.slice(data.place)];
const rowHeads = [
  { label: "Row", key: (line) => line.label, down: false },
  { label: "n", key: (line) => line.n || null, down: true, title: "seeds" },
  ...withChange(data.columns.map((column, index) => ({ label: column.heading, title: column.name, down: column.direction === "max", key: (line) => line.cell(index, "mean") })),
    { label: data.change, key: (line) => line.change, down: data.better === "max" }),
  { label: "Front", key: (line) => line.front, down: true, title: "share of the seeds in which the row is on the front" },
];
sortable("#table", rowHeads, lines, (line) => make("tr", { class: line.kind, title: line.note },
  make("td", { title: line.label }, line.label),
  make("td", {}, line.n ? String(line.n) : ""),
  ...withChange(data.columns.map((column, index) => {
    const text = line.cell(index, "text"), mark = line.cell(index, "mark");
    if (text === null) return make("td", {}, line.kind === "refused" ? "" : "–");
    return make("td", { class: ["", "first", "second"][line.cell(index, "rank")] }, text, mark ? make("sup", {}, mark) : null);
  }), make("td", {}, line.changed)),
  make("td", {}, finite(line.front) ? `${Math.round(100 * line.front)}%` : "")));
const noted = lines.filter((line) => line.note);
const notes = noted.slice(0, MAX_NOTES).map((line) => `${line.label}: ${line.note}`);
if (noted.length > MAX_NOTES) notes.push(`${noted.length - MAX_NOTES} more rows have notes, which are in table.csv.`);
$("#table .notes").append(...data.legend.concat(notes).map((words) => make("li", {}, words)));

const titleOf = (run) => run.line.title;

/* The table of runs and the selection of runs to compare. */
function toggle(run) {
  if (!selected.delete(run)) selected.add(run);
  refresh();
}
const drawRuns = sortable("#runs", [
  { label: "Row", key: titleOf, down: false },
  { label: "Seed", key: (run) => run.seed, down: false },
  ...data.columns.map((column, index) => ({ label: column.heading, title: column.name, down: column.direction === "max", key: (run) => run.number(index) })),
  { label: "Run", key: (run) => run.id, down: false },
], runs, (run) => make("tr", { class: selected.has(run) ? "selected" : null, title: run.settings.join("\n"), onclick: () => toggle(run) },
  make("td", { title: titleOf(run) }, titleOf(run)), make("td", {}, String(run.seed)), ...data.columns.map((_, index) => make("td", {}, run.show(index))), make("td", {}, run.id)), toggle);
$("#runs button[type=button]:not(th button)").addEventListener("click", () => { selected.clear(); refresh(); });

function refresh() {
  drawRuns();
  for (const [run, dot] of dots) dot.classList.toggle("selected", selected.has(run));
  markSelected();
  const chosen = [...selected].slice(0, 8);
  const place = $("#compare .wide");
  if (!chosen.length) {
    place.replaceChildren(make("p", { class: "quiet" }, "Click runs, in the figure above or in the table below, to see them side by side."));
    return;
  }
  const line = (label, words, always, wrap) => {
    const differs = new Set(words).size > 1;
    return differs || always ? make("tr", {}, make("td", {}, label), ...words.map((word) => make("td", { class: [differs && "differs", wrap && "wrap"].filter(Boolean).join(" ") }, word))) : null;
  };
  const keys = settingNames.filter((name) => chosen.some((run) => run.setting(name) !== null));
  place.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", {}, ""), ...chosen.map((run) => make("th", {}, `${titleOf(run)}, seed ${run.seed}`)))),
    make("tbody", {},
      ...data.columns.map((column, index) => line(column.heading, chosen.map((run) => run.show(index)), true)),
      ...keys.map((key) => line(key, chosen.map((run) => run.setting(key) ?? "–"), chosen.length === 1)),
      line("command", chosen.map((run) => run.command), true, true),
      line("host", chosen.map((run) => run.host), true))));
}

/* The trade-off plot: the task's metric against size on a logarithmic axis. */
const dots = new Map();
let markSelected = () => {};
const colours = { control: "#000000", front: "#D55E00", row: "#0072B2", external: "#7F7F7F", infeasible: "#7F7F7F" };
const isDrawable = (point) => finite(point.x) && point.x > 0 && finite(point.y);

/* Draw points into a picture, which is shown below the marks, and describe the point that is next to the pointer. */
function drawPicture(svg, width, height, points) {
  const scale = devicePixelRatio, canvas = make("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  const pen = canvas.getContext("2d"), cells = new Map(), size = 8;
  pen.scale(scale, scale);
  for (const point of points) {
    pen.globalAlpha = point.run ? 0.28 : 0.6;
    pen.fillStyle = colours[point.line.kind];
    pen.beginPath();
    pen.arc(point.x, point.y, point.run ? 1.5 : 2.5, 0, 7);
    pen.fill();
    const key = Math.floor(point.x / size) * 1e5 + Math.floor(point.y / size);
    if (cells.has(key)) cells.get(key).push(point); else cells.set(key, [point]);
  }
  const image = make("svg:image", { width, height, href: canvas.toDataURL() });
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * width / box.width, y = (event.clientY - box.top) * height / box.height;
    let best = null, least = size * size;
    for (const dx of [-1, 0, 1]) for (const dy of [-1, 0, 1]) {
      for (const point of cells.get((Math.floor(x / size) + dx) * 1e5 + Math.floor(y / size) + dy) || []) {
        const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (distance < least) [best, least] = [point, distance];
      }
    }
    return best;
  };
  const tip = hover((event) => { const point = nearest(event); return point && describe(point.run || firstRun(point.line), point.run ? null : point.line); });
  image.addEventListener("mousemove", tip.onmouseenter);
  image.addEventListener("mouseleave", tip.onmouseleave);
  image.addEventListener("click", (event) => { const point = nearest(event); if (point) toggle(point.run || firstRun(point.line)); });
  svg.append(image);
}
let firstRuns = null;
function firstRun(line) {
  if (!firstRuns) {
    firstRuns = new Map();
    for (const run of runs) if (!firstRuns.has(run.line) || run.seed < firstRuns.get(run.line).seed) firstRuns.set(run.line, run);
  }
  return firstRuns.get(line);
}

function plot() {
  dots.clear();
  const width = Math.max(320, $("#front .plot").clientWidth), height = Math.round(Math.min(560, Math.max(300, width * 0.44)));
  const box = { left: 62, right: width - 16, top: 12, bottom: height - 44 };
  const rows = lines.filter(isDrawable), ownRuns = runs.filter(isDrawable), isMany = rows.length + ownRuns.length > MAX_MARKS;
  if (!rows.length) { $("#front").hidden = true; return; }
  const xs = [...rows, ...ownRuns].map((point) => Math.log2(point.x)), ys = [...rows, ...ownRuns].map((point) => point.y);
  const span = (values, room) => {
    const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    const pad = (high - low || room) * 0.08;
    return [low - pad, high + pad];
  };
  const [x0, x1] = span(xs, 1), [y0, y1] = span(ys, 0.01);
  const px = (x) => box.left + (Math.log2(x) - x0) / (x1 - x0) * (box.right - box.left);
  const py = (y) => box.bottom - (y - y0) / (y1 - y0) * (box.bottom - box.top);
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": data.axes.join(" against ") });
  const bytes = (size) => size < 1024 ? `${+size.toPrecision(3)} B` : size < 1048576 ? `${+(size / 1024).toPrecision(3)} KiB` : `${+(size / 1048576).toPrecision(3)} MiB`;
  const stride = Math.max(1, Math.ceil((x1 - x0) * 90 / (box.right - box.left)));
  for (let power = Math.floor(x0 / stride) * stride; power <= x1; power += stride) {
    for (const level of (x1 - x0) * 180 < box.right - box.left ? [2 ** power, 1.5 * 2 ** power] : [2 ** power]) {
      if (Math.log2(level) < x0 || Math.log2(level) > x1) continue;
      const at = px(level);
      svg.append(make("svg:line", { class: "rule", x1: at, x2: at, y1: box.top, y2: box.bottom }), make("svg:text", { x: at, y: box.bottom + 16, "text-anchor": "middle" }, bytes(level)));
    }
  }
  const magnitude = 10 ** Math.floor(Math.log10((y1 - y0) / 8));
  const step = data.share ? [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2].find((candidate) => (y1 - y0) / candidate <= 8) || 0.5
    : [1, 2, 5, 10].map((factor) => factor * magnitude).find((candidate) => (y1 - y0) / candidate <= 8) || 10 * magnitude;
  const share = (level) => `${(100 * level).toFixed(step < 0.001 ? 2 : step < 0.01 ? 1 : 0)}%`;
  for (let level = Math.ceil(y0 / step) * step; level <= y1; level += step) {
    const at = py(level);
    svg.append(make("svg:line", { class: "rule", x1: box.left, x2: box.right, y1: at, y2: at }), make("svg:text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, data.share ? share(level) : String(+level.toPrecision(6))));
  }
  svg.append(make("svg:path", { class: "axis", fill: "none", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` }),
    make("svg:text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, `${data.axes[0]} (log scale)`),
    make("svg:text", { x: -(box.top + box.bottom) / 2, y: 14, "text-anchor": "middle", transform: "rotate(-90)" }, data.axes[1]));
  const ownRows = rows.filter((line) => line.kind === "row" || line.kind === "control").sort((a, b) => a.x - b.x || (data.better === "max" ? b.y - a.y : a.y - b.y));
  const onFront = new Set();
  let best = data.better === "max" ? -Infinity : Infinity;
  for (const line of ownRows) if (data.better === "max" ? line.y > best : line.y < best) { onFront.add(line); best = line.y; }
  const isMark = (line) => !isMany || onFront.has(line) || line.kind === "control" || line.kind === "external";
  const hidden = rows.filter((line) => !isMark(line));
  if (isMany) {
    drawPicture(svg, width, height, [
      ...ownRuns.map((run) => ({ x: px(run.x), y: py(run.y), run, line: run.line })),
      ...hidden.map((line) => ({ x: px(line.x), y: py(line.y), line })),
    ]);
    $("#front .many").textContent = `Of ${rows.length} rows, ${rows.length - hidden.length} are marks: the front, the control and published ones. The others and the ${ownRuns.length} runs are one picture, without standard deviations.`;
  }
  svg.append(make("svg:path", { class: "step", d: [...onFront].map((line, index) => index ? `H${px(line.x)}V${py(line.y)}` : `M${px(line.x)} ${py(line.y)}`).join("") }));
  for (const run of isMany ? [] : ownRuns) {
    const dot = make("svg:circle", { cx: px(run.x), cy: py(run.y), r: 3.5, onclick: () => toggle(run), ...hover(() => describe(run)) });
    dots.set(run, dot);
    svg.append(dot);
  }
  const shapes = { control: "M-6 -6H6V6H-6Z", front: "M0 -8L7 0L0 8L-7 0Z", row: "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0 -6 0Z", external: "M0 -7L7 6H-7Z", infeasible: "M-5 -6L0 -1L5 -6L6 -5L1 0L6 5L5 6L0 1L-5 6L-6 5L-1 0L-6 -5Z" };
  const taken = [];
  for (const line of rows.filter(isMark).sort((a, b) => onFront.has(b) - onFront.has(a))) {
    const kind = line.kind === "row" ? (onFront.has(line) ? "front" : "row") : line.kind;
    const at = [px(line.x), py(line.y)];
    if (line.spread) svg.append(make("svg:line", { class: "spread", stroke: colours[kind], x1: at[0], x2: at[0], y1: Math.max(box.top, py(line.y + line.spread)), y2: Math.min(box.bottom, py(line.y - line.spread)) }));
    const first = firstRun(line);
    svg.append(make("svg:path", { class: "mark", d: shapes[kind], fill: colours[kind], transform: `translate(${at[0]} ${at[1]})`, onclick: () => first && toggle(first), ...hover(() => describe(first, line)) }));
    const label = line.title.length > 36 ? `${line.title.slice(0, 35)}…` : line.title, wide = 6 * label.length;
    const spot = [[9, -6, 0], [9, 14, 0], [-9 - wide, -6, wide], [-9 - wide, 14, wide], [9, -18, 0]].find(([dx, dy]) => {
      const [left, top] = [at[0] + dx, at[1] + dy - 10];
      return left > box.left && left + wide < width && !taken.some(([l, t, w]) => left < l + w && l < left + wide && top < t + 12 && t < top + 12);
    });
    if (spot && rows.length <= 60) {
      taken.push([at[0] + spot[0], at[1] + spot[1] - 10, wide]);
      svg.append(make("svg:text", { class: "name", x: at[0] + spot[0] + spot[2], y: at[1] + spot[1], "text-anchor": spot[2] ? "end" : "start" }, label));
    }
  }
  const chosen = make("svg:g");
  markSelected = () => chosen.replaceChildren(...(isMany ? [...selected].filter(isDrawable) : []).map((run) => make("svg:circle", { class: "selected", cx: px(run.x), cy: py(run.y), r: 5 })));
  svg.append(chosen);
  $("#front .plot").replaceChildren(svg);
}
function describe(run, line) {
  const head = line ? `${line.title}${line.n ? `, mean of ${line.n} seeds` : ""}` : `${titleOf(run)}, seed ${run.seed}`;
  const figures = line ? data.columns.map((column, index) => line.cell(index, "text") && `${column.heading}: ${line.cell(index, "text")}`) : data.columns.map((column, index) => `${column.heading}: ${run.show(index)}`);
  return [make("b", {}, head), ...figures.filter(Boolean).concat(run ? run.settings : line.note || []).map((words) => make("div", {}, words))];
}
function hover(words) {
  const tip = $("#tip");
  const move = (event) => {
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  return { onmouseenter: (event) => { const shown = words(event); tip.hidden = !shown; if (shown) { tip.replaceChildren(...shown); move(event); } }, onmousemove: move, onmouseleave: () => { tip.hidden = true; } };
}

/* The statistics of one metric. */
const select = $("#statistics select");
select.append(...data.columns.map((column, index) => make("option", { value: index }, column.name)));
const quality = data.columns.findIndex((column) => column.name === data.quality);
if (quality >= 0) select.value = String(quality);
function statistics() {
  const index = Number(select.value);
  const number = (value) => finite(value) ? String(+value.toPrecision(4)) : "–";
  const p = (value) => finite(value) ? (value < 0.0001 ? "< 0.0001" : value.toFixed(4)) : "–";
  const pair = (low, high) => finite(low) ? `[${number(low)}, ${number(high)}]` : "–";
  const cell = (name) => (line) => number(line.cell(index, name)), change = (name) => (line) => line.difference(index, name);
  const columns = [
    ["Row", (line) => line.label], ["n", (line) => String(line.cell(index, "n"))], ["Mean", cell("mean")], ["Std", cell("std")], ["IQM", cell("iqm")],
    ["Bootstrap 95%", (line) => pair(line.cell(index, "low"), line.cell(index, "high"))],
    ["Difference", (line) => number(change("mean")(line))], ["95% interval", (line) => pair(change("low")(line), change("high")(line))],
    ["p", (line) => p(change("p")(line))], ["p (Holm)", (line) => p(change("adjusted")(line))],
    ["Within margin", (line) => ({ true: "yes", false: "no" })[change("within")(line)] ?? "–"],
  ];
  const rows = lines.filter((line) => line.cell(index, "text") !== null);
  const filled = columns.filter(([, read]) => rows.some((line) => read(line) !== "–"));
  place($("#statistics .wide"), filled.map(([head]) => head), rows, (line) => filled.map(([, read]) => read(line)));
}
function place(where, heads, items, read = (row) => row) {
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))));
  where.parentNode.querySelectorAll(".printed").forEach((line) => line.remove());
  where.replaceChildren(table);
  makeBody(where, table, (item) => make("tr", {}, ...read(item).map((word) => make("td", {}, word))))(items);
}
select.addEventListener("change", statistics);

$("#commands").textContent = data.commands.join("\n");
place($("#environment"), data.environment.heads, data.environment.rows);
place($("#boards .wide"), data.boards.heads, data.boards.rows);
$("#boards").hidden = !data.boards.rows.length;
plot();
statistics();
refresh();

/* Say how many columns of a table lie beyond its right end. */
function cue(table) {
  const end = table.getBoundingClientRect().right;
  const hidden = [...table.querySelectorAll("thead th, tr:first-child > th")].filter((head) => head.getBoundingClientRect().right > end + 1).length;
  const line = table.previousElementSibling;
  const text = hidden ? `${hidden} more column${hidden > 1 ? "s" : ""} → scroll the table sideways` : "";
  if (line.textContent !== text) line.textContent = text;
}
for (const table of document.querySelectorAll(".wide")) {
  table.before(make("div", { class: "cue", "aria-live": "off" }));
  table.addEventListener("scroll", () => cue(table));
  new MutationObserver(() => cue(table)).observe(table, { childList: true });
  cue(table);
}
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { plot(); refresh(); document.querySelectorAll(".wide").forEach(cue); }, 150);
});
$("#figures").hidden = !$("#figures figure");
