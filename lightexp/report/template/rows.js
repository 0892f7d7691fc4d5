"use strict";
/* The report's rows and runs, as `lightexp.report.page_data` packs them, and the filter of both. */
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const $ = (selector) => document.querySelector(selector);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

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

/* Return a value of a column that `lightexp.report.page_data.pack` has packed. */
function unpack(column, index) {
  if (Array.isArray(column)) return column[index];
  return "values" in column ? column.values[column.indices[index]] : column.same;
}
const findColumn = (name) => data.columns.findIndex((column) => column.name === name);

/* A row of the report; it reads its values from the columns when they are needed. */
class Row {
  constructor(index) { this.index = index; }
  get name() { return unpack(data.rows.name, this.index); }
  get title() { return unpack(data.rows.title, this.index) ?? this.name; }
  get label() { return unpack(data.rows.label, this.index) ?? this.title; }
  get kind() { return unpack(data.rows.kind, this.index); }
  get n() { return unpack(data.rows.n, this.index); }
  get note() { return unpack(data.rows.note, this.index); }
  get front() { return unpack(data.rows.front, this.index); }
  get change() { return unpack(data.rows.change, this.index); }
  get changeText() { return unpack(data.rows.change_text, this.index); }
  get x() { return unpack(data.rows.x, this.index); }
  get y() { return unpack(data.rows.y, this.index); }
  get spread() { return unpack(data.rows.spread, this.index); }
  statistic(column, name) { return unpack(data.rows.metrics[column][name], this.index); }
  difference(column, name) { return unpack(data.rows.metrics[column].difference[name], this.index); }
  value(name) { const column = findColumn(name); return column < 0 ? null : this.statistic(column, "mean"); }
  get searchText() { return this.lowerText ??= [this.name, this.label, this.kind, this.note].join(" ").toLowerCase(); }
}

/* A run of the report, which is one seed of a row. */
class Run {
  constructor(index) { this.index = index; }
  get id() { return unpack(data.runs.id, this.index); }
  get row() { return rows[unpack(data.runs.row, this.index)]; }
  get title() { return this.row.title; }
  get seed() { return unpack(data.runs.seed, this.index); }
  get command() { return unpack(data.runs.command, this.index); }
  get host() { return unpack(data.runs.host, this.index); }
  get x() { return unpack(data.runs.x, this.index); }
  get y() { return unpack(data.runs.y, this.index); }
  number(column) { return unpack(data.runs.values[column], this.index); }
  text(column) { return unpack(data.runs.texts[column], this.index); }
  value(name) { const column = findColumn(name); return name === "seed" ? this.seed : column < 0 ? null : this.number(column); }
  setting(name) { return unpack(data.settings[name], unpack(data.runs.config, this.index)); }
  get settings() { return settingNames.filter((name) => this.setting(name) !== null).map((name) => `${name}=${this.setting(name)}`); }
  get searchText() { return this.lowerText ??= [this.row.name, this.title, `seed=${this.seed}`, this.id, ...this.settings].join(" ").toLowerCase(); }
}
const settingNames = Object.keys(data.settings);
const rows = Array.from({ length: data.rows.count }, (_, index) => new Row(index));
const runs = Array.from({ length: data.runs.count }, (_, index) => new Run(index));
const selected = new Set(); // runs to compare

/* Make a filter from a query: all its words must occur; comparisons such as size/file_bytes<20000 or seed=0 must hold. */
function makeFilter(query) {
  const tests = query.trim().split(/\s+/).filter(Boolean).map((word) => {
    const lower = word.toLowerCase();
    const comparison = /^([^<>=]+)(<=|>=|<|>|=)([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)$/i.exec(word);
    if (!comparison) return (item) => item.searchText.includes(lower);
    const [, name, sign, limit] = comparison;
    const number = Number(limit);
    return (item) => {
      const value = item.value(name);
      if (!isNumber(value)) return item.searchText.includes(lower);
      return { "<": value < number, ">": value > number, "<=": value <= number, ">=": value >= number, "=": value === number }[sign];
    };
  });
  return (item) => tests.every((test) => test(item));
}
