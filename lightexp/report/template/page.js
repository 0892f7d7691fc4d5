"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 200; // rows of a table that are shown at first
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

const config = (run) => data.configs[run.config];
const listSettings = (run) => Object.entries(config(run)).map(([key, value]) => `${key}=${value}`);

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

/* Make a table that sorts by its headings and is filtered by its section's search box. */
function sortable(section, heads, items, row) {
  const place = $(`${section} .wide`);
  const box = $(`${section} input`);
  const count = $(`${section} .tools span`);
  let by = null, down = false, shown = PAGE;
  const body = make("tbody");
  const cells = heads.map((head, index) => make("th", { scope: "col", title: head.title },
    make("button", { type: "button", onclick: () => { down = by === index ? !down : head.down; by = index; draw(); } }, head.label)));
  const more = make("button", { type: "button", hidden: "", onclick: () => { shown = Infinity; draw(); } }, "Show all");
  place.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...cells)), body), more);
  function draw() {
    let matching = items.filter(matcher(box ? box.value : ""));
    if (by !== null) {
      const key = heads[by].key;
      matching = matching.map((item) => [key(item), item]).sort(([a], [b]) => {
        const missing = (value) => value === null || value === undefined || value === "";
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return down ? -order : order;
      }).map(([, item]) => item);
    }
    cells.forEach((cell, index) => cell.setAttribute("aria-sort", by === index ? (down ? "descending" : "ascending") : "none"));
    body.replaceChildren(...matching.slice(0, shown).map(row));
    more.hidden = matching.length <= shown;
    if (count) count.textContent = `${Math.min(shown, matching.length)} of ${items.length} shown`;
  }
  if (box) box.addEventListener("input", () => { shown = PAGE; draw(); });
  draw();
  return draw;
}

function makeSearchable(item, words, value) {
  item.text = words.join(" ").toLowerCase();
  item.value = value;
  return item;
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
  ...withChange(data.columns.map((column, index) => ({ label: column.heading, title: column.name, down: column.direction === "max", key: (line) => line.cells[index] && line.cells[index].mean })),
    { label: data.change, key: (line) => line.change, down: data.better === "max" }),
  { label: "Front", key: (line) => line.front, down: true, title: "share of the seeds in which the row is on the front" },
];
for (const line of data.rows) {
  makeSearchable(line, [line.name, line.label, line.kind, line.note], (name) => {
    const cell = line.cells[data.columns.findIndex((column) => column.name === name)];
    return cell ? cell.mean : null;
  });
}
sortable("#table", rowHeads, data.rows, (line) => make("tr", { class: line.kind, title: line.note },
  make("td", { title: line.label }, line.label),
  make("td", {}, line.n ? String(line.n) : ""),
  ...withChange(data.columns.map((column, index) => {
    const cell = line.cells[index];
    if (!cell) return make("td", {}, line.kind === "refused" ? "" : "–");
    return make("td", { class: ["", "first", "second"][cell.rank] }, cell.text, cell.mark ? make("sup", {}, cell.mark) : null);
  }), make("td", {}, line.changed)),
  make("td", {}, finite(line.front) ? `${Math.round(100 * line.front)}%` : "")));
$("#table .notes").append(...data.legend.concat(data.rows.filter((line) => line.note).map((line) => `${line.label}: ${line.note}`)).map((words) => make("li", {}, words)));

const titles = new Map(data.rows.map((line) => [line.name, line.title]));
const titleOf = (run) => titles.get(run.row) || run.row;

/* The table of runs and the selection of runs to compare. */
for (const run of data.runs) {
  makeSearchable(run, [run.row, titleOf(run), `seed=${run.seed}`, run.id, ...listSettings(run)], (name) => name === "seed" ? run.seed : run.values[data.columns.findIndex((column) => column.name === name)]);
}
function toggle(run) {
  if (!selected.delete(run)) selected.add(run);
  refresh();
}
const drawRuns = sortable("#runs", [
  { label: "Row", key: titleOf, down: false },
  { label: "Seed", key: (run) => run.seed, down: false },
  ...data.columns.map((column, index) => ({ label: column.heading, title: column.name, down: column.direction === "max", key: (run) => run.values[index] })),
  { label: "Run", key: (run) => run.id, down: false },
], data.runs, (run) => make("tr", { class: selected.has(run) ? "selected" : null, title: listSettings(run).join("\n"), onclick: () => toggle(run) },
  make("td", { title: titleOf(run) }, titleOf(run)), make("td", {}, String(run.seed)), ...run.texts.map((text) => make("td", {}, text)), make("td", {}, run.id)));
$("#runs button[type=button]:not(th button)").addEventListener("click", () => { selected.clear(); refresh(); });

function refresh() {
  drawRuns();
  for (const [run, dot] of dots) dot.classList.toggle("selected", selected.has(run));
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
  const keys = [...new Set(chosen.flatMap((run) => Object.keys(config(run))))];
  place.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", {}, ""), ...chosen.map((run) => make("th", {}, `${titleOf(run)}, seed ${run.seed}`)))),
    make("tbody", {},
      ...data.columns.map((column, index) => line(column.heading, chosen.map((run) => run.texts[index]), true)),
      ...keys.map((key) => line(key, chosen.map((run) => config(run)[key] ?? "–"), chosen.length === 1)),
      line("command", chosen.map((run) => run.command), true, true),
      line("host", chosen.map((run) => run.host), true))));
}

/* The trade-off plot: the task's metric against size on a logarithmic axis. */
const dots = new Map();
function plot() {
  dots.clear();
  const width = Math.max(320, $("#front .plot").clientWidth), height = Math.round(Math.min(560, Math.max(300, width * 0.44)));
  const box = { left: 62, right: width - 16, top: 12, bottom: height - 44 };
  const rows = data.rows.filter((line) => finite(line.x) && line.x > 0 && finite(line.y));
  const runs = data.runs.length > 5000 ? [] : data.runs.filter((run) => finite(run.x) && run.x > 0 && finite(run.y));
  if (!rows.length) { $("#front").hidden = true; return; }
  const xs = [...rows, ...runs].map((point) => Math.log2(point.x)), ys = [...rows, ...runs].map((point) => point.y);
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
  svg.append(make("svg:path", { class: "step", d: [...onFront].map((line, index) => index ? `H${px(line.x)}V${py(line.y)}` : `M${px(line.x)} ${py(line.y)}`).join("") }));
  for (const run of runs) {
    const dot = make("svg:circle", { cx: px(run.x), cy: py(run.y), r: runs.length > 1000 ? 2.5 : 3.5, onclick: () => toggle(run), ...hover(() => describe(run)) });
    dots.set(run, dot);
    svg.append(dot);
  }
  const shapes = { control: "M-6 -6H6V6H-6Z", front: "M0 -8L7 0L0 8L-7 0Z", row: "M-6 0A6 6 0 1 0 6 0A6 6 0 1 0 -6 0Z", external: "M0 -7L7 6H-7Z", infeasible: "M-5 -6L0 -1L5 -6L6 -5L1 0L6 5L5 6L0 1L-5 6L-6 5L-1 0L-6 -5Z" };
  const colours = { control: "#000000", front: "#D55E00", row: "#0072B2", external: "#7F7F7F", infeasible: "#7F7F7F" };
  const taken = [];
  for (const line of [...rows].sort((a, b) => onFront.has(b) - onFront.has(a))) {
    const kind = line.kind === "row" ? (onFront.has(line) ? "front" : "row") : line.kind;
    const at = [px(line.x), py(line.y)];
    if (line.spread) svg.append(make("svg:line", { class: "spread", stroke: colours[kind], x1: at[0], x2: at[0], y1: Math.max(box.top, py(line.y + line.spread)), y2: Math.min(box.bottom, py(line.y - line.spread)) }));
    const first = data.runs.filter((run) => run.row === line.name).sort((a, b) => a.seed - b.seed)[0];
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
  $("#front .plot").replaceChildren(svg);
}
function describe(run, line) {
  const head = line ? `${line.title}${line.n ? `, mean of ${line.n} seeds` : ""}` : `${titleOf(run)}, seed ${run.seed}`;
  const figures = line ? data.columns.map((column, index) => line.cells[index] && `${column.heading}: ${line.cells[index].text}`) : data.columns.map((column, index) => `${column.heading}: ${run.texts[index]}`);
  return [make("b", {}, head), ...figures.filter(Boolean).concat(run ? listSettings(run) : line.note || []).map((words) => make("div", {}, words))];
}
function hover(words) {
  const tip = $("#tip");
  const move = (event) => {
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };
  return { onmouseenter: (event) => { tip.replaceChildren(...words()); tip.hidden = false; move(event); }, onmousemove: move, onmouseleave: () => { tip.hidden = true; } };
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
  const heads = ["Row", "n", "Mean", "Std", "IQM", "Bootstrap 95%", "Difference", "95% interval", "p", "p (Holm)", "Within margin"];
  const rows = data.rows.filter((line) => line.cells[index]).map((line) => {
    const c = line.cells[index], d = c.difference || {};
    const pair = (low, high) => finite(low) ? `[${number(low)}, ${number(high)}]` : "–";
    return [line.label, String(c.n), number(c.mean), number(c.std), number(c.iqm), pair(c.low, c.high), number(d.mean), pair(d.low, d.high), p(d.p), p(d.adjusted), d.within === true ? "yes" : d.within === false ? "no" : "–"];
  });
  const filled = heads.map((head, column) => rows.some((row) => row[column] !== "–"));
  place($("#statistics .wide"), heads.filter((head, column) => filled[column]), rows.map((row) => row.filter((word, column) => filled[column])));
}
function place(where, heads, rows) {
  where.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((word) => make("td", {}, word)))))));
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
