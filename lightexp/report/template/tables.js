/* Tables that sort, filter and, where they are long, hold only the rows in view. */
const MAX_WHOLE = 200; // rows up to which a table is drawn whole; of longer ones, the rows in view
const MARGIN = 20; // rows that are drawn above and below those in view
const bodies = new Map(); // the TableBody that each frame shows

/* A table's body in a scrolling frame. Of many items it holds the rows in view. Arrow keys and paging reach the rows that scroll or that can be picked. */
class TableBody {
  /* `makeRow` makes the element of an item; `onPick`, which may be left out, is called with an item that Enter picks. */
  constructor(frame, table, makeRow, onPick) {
    Object.assign(this, { frame, table, makeRow, onPick });
    this.body = make("tbody");
    this.gapCells = [make("td"), make("td")];
    this.gaps = this.gapCells.map((cell) => make("tbody", { class: "gap", "aria-hidden": "true" }, make("tr", {}, cell)));
    this.printNote = make("p", { class: "quiet printed" });
    this.heads = [...table.querySelectorAll("th")];
    this.widths = this.heads.map(() => 0);
    this.items = [];
    [this.start, this.end] = [0, 0]; // of the items that are drawn
    this.rowHeight = 30; // pixels, until it is measured
    this.active = -1; // index of the item that has the focus
    this.listeners = new AbortController();
    bodies.get(frame)?.detach();
    bodies.set(frame, this);
    frame.addEventListener("scroll", () => this.scroll(), { signal: this.listeners.signal });
    frame.addEventListener("keydown", (event) => this.handleKey(event), { signal: this.listeners.signal });
    this.body.addEventListener("focusin", (event) => { this.active = this.start + [...this.body.children].indexOf(event.target.closest("tr")); }, { signal: this.listeners.signal });
    table.append(this.body);
    frame.after(this.printNote);
  }

  /* Leave the frame to another table. */
  detach() {
    this.listeners.abort();
    this.printNote.remove();
  }

  get isLong() { return this.items.length > MAX_WHOLE; }
  get hasKeys() { return this.isLong || Boolean(this.onPick); }
  get headHeight() { return this.table.tHead.offsetHeight; }

  /* Return the indices of the first item in view and of the one below the last. */
  findView() {
    const viewHeight = this.frame.clientHeight - this.headHeight;
    return [Math.floor(this.frame.scrollTop / this.rowHeight), Math.ceil((this.frame.scrollTop + viewHeight) / this.rowHeight)];
  }

  findRow(index) { return index >= this.start && index < this.end ? this.body.children[index - this.start] : null; }

  show(items) {
    this.active = items.indexOf(this.items[this.active]); // of a row that is filtered away, nothing is left to pick
    this.items = items;
    this.frame.classList.toggle("tall", this.isLong);
    this.printNote.textContent = this.isLong ? `Of ${items.length} rows, those in view were printed. All are in the CSV files next to this page.` : "";
    this.labelFrame();
    if (this.isLong) this.showLong();
    else {
      this.gaps.forEach((gap) => gap.remove());
      this.table.removeAttribute("aria-rowcount");
      this.fill(0, items.length);
      this.measureRow();
    }
  }

  /* Let the keyboard reach the frame of a table whose rows it reaches, and say so to screen readers. */
  labelFrame() {
    if (!this.hasKeys) { ["tabindex", "role", "aria-label"].forEach((name) => this.frame.removeAttribute(name)); return; }
    const title = this.frame.closest("section").querySelector("h2").textContent;
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "region");
    this.frame.setAttribute("aria-label", this.onPick ? `${title}: arrow keys move, Enter selects` : title);
  }

  showLong() {
    this.body.before(this.gaps[0]);
    this.body.after(this.gaps[1]);
    this.table.setAttribute("aria-rowcount", this.items.length + 1);
    this.table.tHead.rows[0].setAttribute("aria-rowindex", 1);
    const [top, bottom] = this.findView();
    this.fill(Math.max(0, Math.min(top, this.items.length) - MARGIN), Math.min(this.items.length, bottom + MARGIN));
    this.measureRow();
    this.fill(this.start, this.end);
  }

  measureRow() { this.rowHeight = this.body.rows[0]?.getBoundingClientRect().height || this.rowHeight; }

  fill(start, end) {
    const hadFocus = this.body.contains(document.activeElement);
    [this.start, this.end] = [start, end];
    this.body.replaceChildren(...this.items.slice(start, end).map((item, index) => {
      const row = this.makeRow(item);
      if (this.isLong) row.setAttribute("aria-rowindex", start + index + 2);
      if (this.hasKeys) row.tabIndex = -1;
      return row;
    }));
    this.gapCells[0].style.height = `${start * this.rowHeight}px`;
    this.gapCells[1].style.height = `${(this.items.length - end) * this.rowHeight}px`;
    if (hadFocus) (this.findRow(this.active) || this.frame).focus({ preventScroll: true });
    if (!this.isLong) return;
    this.heads.map((head) => head.offsetWidth).forEach((width, index) => {
      if (width > this.widths[index]) this.heads[index].style.minWidth = `${this.widths[index] = width}px`; // columns do not jump
    });
  }

  scroll() {
    if (!this.isLong) return;
    const [top, bottom] = this.findView(), count = this.items.length;
    if (top < this.start || Math.min(bottom, count) > this.end) this.fill(Math.max(0, top - MARGIN), Math.min(count, bottom + MARGIN));
  }

  /* Scroll to an item and give its row the focus. */
  activate(index) {
    const { frame, headHeight, rowHeight } = this;
    this.active = Math.max(0, Math.min(this.items.length - 1, index));
    const [top, bottom] = this.findView();
    if (this.active <= top) frame.scrollTop = this.active * rowHeight;
    else if (this.active >= bottom - 1) frame.scrollTop = (this.active + 1) * rowHeight - (frame.clientHeight - headHeight);
    this.scroll();
    const row = this.findRow(this.active), rowBox = row.getBoundingClientRect(), frameBox = frame.getBoundingClientRect();
    frame.scrollTop += Math.min(0, rowBox.top - frameBox.top - headHeight) + Math.max(0, rowBox.bottom - frameBox.top - frame.clientHeight);
    row.focus({ preventScroll: this.isLong }); // a short table's frame may be taller than the window
  }

  handleKey(event) {
    if (!this.hasKeys || !this.items.length || event.target.closest("thead")) return;
    const [top, bottom] = this.findView();
    const from = this.body.contains(event.target) ? this.active : top - 1, page = Math.max(1, Math.min(bottom - top, Math.floor(innerHeight / this.rowHeight)) - 2);
    const to = { ArrowDown: from + 1, ArrowUp: from - 1, PageDown: from + page, PageUp: from - page, Home: 0, End: this.items.length - 1 }[event.key];
    if (to !== undefined) this.activate(to);
    else if (this.onPick && this.body.contains(event.target) && (event.key === "Enter" || event.key === " ")) this.onPick(this.items[this.active]);
    else return;
    event.preventDefault();
  }
}

/* Return the items by a key; those without one are last. */
function sortItems(items, key, isDescending) {
  const compareTexts = new Intl.Collator().compare;
  const isMissing = (value) => value === null || value === undefined || value === "";
  return items.map((item) => [key(item), item]).sort(([a], [b]) => {
    if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : compareTexts(String(a), String(b));
    return isDescending ? -order : order;
  }).map(([, item]) => item);
}

/* Make a table that sorts by its headings and is filtered by its section's search box; return the function that draws it. */
function makeSortableTable({ section, heads, items, makeRow, onPick }) {
  const frame = $(`${section} .wide`), box = $(`${section} input`), count = $(`${section} .tools span`);
  let sortedBy = null, isDescending = false;
  const cells = heads.map((head, index) => make("th", { scope: "col", title: head.title }, make("button", { type: "button", onclick: () => {
    isDescending = sortedBy === index ? !isDescending : head.isDescending;
    sortedBy = index;
    draw();
  } }, head.label)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...cells)));
  frame.replaceChildren(table);
  const body = new TableBody(frame, table, makeRow, onPick);
  function draw() {
    let matching = box.value.trim() ? items.filter(makeFilter(box.value)) : items;
    if (sortedBy !== null) matching = sortItems(matching, heads[sortedBy].key, isDescending);
    cells.forEach((cell, index) => cell.setAttribute("aria-sort", sortedBy === index ? (isDescending ? "descending" : "ascending") : "none"));
    body.show(matching);
    count.textContent = `${matching.length} of ${items.length} shown${matching.length > MAX_WHOLE ? ", drawn as they come into view: find rows by this filter" : ""}`;
  }
  box.addEventListener("input", () => { frame.scrollTop = 0; draw(); });
  draw();
  return draw;
}

/* Replace a frame's table; `readCells` returns the texts of an item's cells. */
function fillTable(frame, heads, items, readCells = (item) => item) {
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))));
  frame.replaceChildren(table);
  const body = new TableBody(frame, table, (item) => make("tr", {}, ...readCells(item).map((text) => make("td", {}, text))));
  body.show(items);
}

/* Say how many columns of a frame's table lie beyond its right end. */
function countHiddenColumns(frame) {
  const end = frame.getBoundingClientRect().right;
  const hidden = [...frame.querySelectorAll("thead th, tr:first-child > th")].filter((head) => head.getBoundingClientRect().right > end + 1).length;
  const note = frame.previousElementSibling;
  const text = hidden ? `${hidden} more column${hidden > 1 ? "s" : ""} → scroll the table sideways` : "";
  if (note.textContent !== text) note.textContent = text;
}
