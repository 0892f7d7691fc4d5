/* The page's sections, in their order. */
const MAX_NOTES = 100; // notes of rows below the table
const MAX_COMPARED = 8; // runs that are compared

/* The header. */
$("#title").textContent = data.title;
$("#claim").textContent = data.claim;
$("#reference").textContent = [data.reference, data.cost && `Cost: ${data.cost}`].filter(Boolean).join(" · ");
for (const [label, value] of data.cards) $("#cards").append(make("div", { class: "card" }, make("b", {}, value), make("span", {}, label)));
$("#asked").hidden = data.questions.length === 0;
$("#asked ul").append(...data.questions.map((question) => make("li", {}, question)));

/* The table of rows. */
const insertChange = (columns, change) => [...columns.slice(0, data.change_place), change, ...columns.slice(data.change_place)];
const makeMetricHeads = (key) => data.columns.map((column, index) => ({ label: column.heading, title: column.name, isDescending: column.direction === "max", key: (item) => key(item, index) }));
makeSortableTable({
  section: "#table",
  heads: [
    { label: "Row", key: (row) => row.label, isDescending: false },
    { label: "n", key: (row) => row.n || null, isDescending: true, title: "seeds" },
    ...insertChange(makeMetricHeads((row, index) => row.statistic(index, "mean")),
      { label: data.change_heading, key: (row) => row.change, isDescending: data.direction === "max" }),
    { label: "Front", key: (row) => row.front, isDescending: true, title: "share of the seeds in which the row is on the front" },
  ],
  items: rows,
  makeRow: (row) => make("tr", { class: row.kind, title: row.note },
    make("td", { title: row.label }, row.label),
    make("td", {}, row.n ? String(row.n) : ""),
    ...insertChange(data.columns.map((column, index) => {
      const text = row.statistic(index, "text"), mark = row.statistic(index, "mark");
      if (text === null) return make("td", {}, row.kind === "refused" ? "" : "–");
      return make("td", { class: ["", "first", "second"][row.statistic(index, "rank")] }, text, mark ? make("sup", {}, mark) : null);
    }), make("td", {}, row.changeText)),
    make("td", {}, isNumber(row.front) ? `${Math.round(100 * row.front)}%` : "")),
});
const rowsWithNotes = rows.filter((row) => row.note);
const notes = rowsWithNotes.slice(0, MAX_NOTES).map((row) => `${row.label}: ${row.note}`);
if (rowsWithNotes.length > MAX_NOTES) notes.push(`${rowsWithNotes.length - MAX_NOTES} more rows have notes, which are in table.csv.`);
$("#table .notes").append(...data.legend.concat(notes).map((note) => make("li", {}, note)));

/* The table of runs and the selection of runs to compare. */
function toggle(run) {
  if (!selected.delete(run)) selected.add(run);
  refresh();
}
const drawRuns = makeSortableTable({
  section: "#runs",
  heads: [
    { label: "Row", key: (run) => run.title, isDescending: false },
    { label: "Seed", key: (run) => run.seed, isDescending: false },
    ...makeMetricHeads((run, index) => run.number(index)),
    { label: "Run", key: (run) => run.id, isDescending: false },
  ],
  items: runs,
  makeRow: (run) => make("tr", { class: selected.has(run) ? "selected" : null, title: run.settings.join("\n"), onclick: () => toggle(run) },
    make("td", { title: run.title }, run.title), make("td", {}, String(run.seed)), ...data.columns.map((_, index) => make("td", {}, run.text(index))), make("td", {}, run.id)),
  onPick: toggle,
});
$("#runs button[type=button]:not(th button)").addEventListener("click", () => { selected.clear(); refresh(); });

/* Draw what depends on the selection. */
function refresh() {
  drawRuns();
  for (const [run, dot] of dots) dot.classList.toggle("selected", selected.has(run));
  markSelected();
  compare([...selected].slice(0, MAX_COMPARED));
}

/* Show metrics and settings of runs side by side. */
function compare(compared) {
  const frame = $("#compare .wide");
  if (!compared.length) {
    frame.replaceChildren(make("p", { class: "quiet" }, "Click runs, in the figure above or in the table below, or select them there with arrow keys and Enter, to see them side by side."));
    return;
  }
  const makeLine = (label, texts, { isAlways, isWrapped }) => {
    const isDifferent = new Set(texts).size > 1;
    if (!isDifferent && !isAlways) return null;
    const kinds = [isDifferent && "differs", isWrapped && "wrap"].filter(Boolean).join(" ");
    return make("tr", {}, make("td", {}, label), ...texts.map((text) => make("td", { class: kinds }, text)));
  };
  const names = settingNames.filter((name) => compared.some((run) => run.setting(name) !== null));
  frame.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, make("th", {}, ""), ...compared.map((run) => make("th", {}, `${run.title}, seed ${run.seed}`)))),
    make("tbody", {},
      ...data.columns.map((column, index) => makeLine(column.heading, compared.map((run) => run.text(index)), { isAlways: true })),
      ...names.map((name) => makeLine(name, compared.map((run) => run.setting(name) ?? "–"), { isAlways: compared.length === 1 })),
      makeLine("command", compared.map((run) => run.command), { isAlways: true, isWrapped: true }),
      makeLine("host", compared.map((run) => run.host), { isAlways: true }))));
}

/* The statistics of one metric. */
const select = $("#statistics select");
select.append(...data.columns.map((column, index) => make("option", { value: index }, column.name)));
if (findColumn(data.quality) >= 0) select.value = String(findColumn(data.quality));
function drawStatistics() {
  const index = Number(select.value);
  const format = (value) => isNumber(value) ? String(+value.toPrecision(4)) : "–";
  const formatP = (value) => isNumber(value) ? (value < 0.0001 ? "< 0.0001" : value.toFixed(4)) : "–";
  const formatInterval = (low, high) => isNumber(low) ? `[${format(low)}, ${format(high)}]` : "–";
  const columns = [
    ["Row", (row) => row.label],
    ["n", (row) => String(row.statistic(index, "n"))],
    ["Mean", (row) => format(row.statistic(index, "mean"))],
    ["Std", (row) => format(row.statistic(index, "std"))],
    ["IQM", (row) => format(row.statistic(index, "iqm"))],
    ["Bootstrap 95%", (row) => formatInterval(row.statistic(index, "low"), row.statistic(index, "high"))],
    ["Difference", (row) => format(row.difference(index, "mean"))],
    ["95% interval", (row) => formatInterval(row.difference(index, "low"), row.difference(index, "high"))],
    ["p", (row) => formatP(row.difference(index, "p"))],
    ["p (Holm)", (row) => formatP(row.difference(index, "adjusted"))],
    ["Within margin", (row) => ({ true: "yes", false: "no" })[row.difference(index, "within")] ?? "–"],
  ];
  const measured = rows.filter((row) => row.statistic(index, "text") !== null);
  const filled = columns.filter(([, read]) => measured.some((row) => read(row) !== "–"));
  fillTable($("#statistics .wide"), filled.map(([head]) => head), measured, (row) => filled.map(([, read]) => read(row)));
}
select.addEventListener("change", drawStatistics);

/* The boards, and how the runs were made. */
$("#commands").textContent = data.commands.join("\n");
fillTable($("#environment"), data.environment.heads, data.environment.rows);
fillTable($("#boards .wide"), data.boards.heads, data.boards.rows);
$("#boards").hidden = !data.boards.rows.length;
$("#figures").hidden = !$("#figures figure");
drawPlot();
drawStatistics();
refresh();

/* Notes of hidden columns, and what changes with the window's size. */
const wideFrames = document.querySelectorAll(".wide");
for (const frame of wideFrames) {
  frame.before(make("div", { class: "cue", "aria-live": "off" }));
  frame.addEventListener("scroll", () => countHiddenColumns(frame));
  new MutationObserver(() => countHiddenColumns(frame)).observe(frame, { childList: true });
  countHiddenColumns(frame);
}
let resizeTimer;
addEventListener("resize", () => {
  clearTimeout(resizeTimer);
  resizeTimer = setTimeout(() => { drawPlot(); refresh(); wideFrames.forEach(countHiddenColumns); }, 150);
});
