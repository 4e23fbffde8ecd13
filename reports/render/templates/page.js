// The report's page: sorts and filters its tables, shows what stands behind a cell, and the values of a figure's marks.
// Everything it shows is in the page already: the tables as HTML, the rest in the element #data. It fetches nothing.
"use strict";
{
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const report = JSON.parse($("#data").textContent);

/** An element with properties and children; text stays text. Empty children are left out. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** The same for SVG, whose properties are attributes. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = before; }, 1400);
}

// ---- colours -----------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const themeButton = $("#theme");
const tellTheme = () => themeButton.setAttribute("aria-pressed", isDark());
themeButton.addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("ham-theme", chosen); } catch { /* no storage: until the page is closed */ }
  tellTheme();
});
dark.addEventListener("change", tellTheme);
tellTheme();

// ---- tables: moving, sorting -------------------------------------------------------------------------------------

const collator = new Intl.Collator("en", { numeric: true });
const tables = $$("table[role=grid]").map((element) => {
  const box = element.closest(".tablebox");
  const lines = [...element.tBodies[0].rows]; // rows and the headings of their groups, in the order of the report
  const rows = lines.filter((line) => line.classList.contains("row"));
  const table = {
    id: box.id, element, box, lines, rows, body: element.tBodies[0],
    heads: $$(".titles th", element),
    texts: rows.map((row) => `${row.cells[0].dataset.group ?? ""} ${row.textContent}`.toLowerCase()),
    filter: $(".filter", box), count: $(".count", box), article: box.closest("article"),
  };
  element.addEventListener("keydown", (event) => moveInTable(table, event));
  element.addEventListener("click", (event) => {
    const head = event.target.closest(".titles th");
    const cell = event.target.closest("tbody td");
    if (head) sort(table, table.heads.indexOf(head));
    else if (cell?.classList.contains("open")) openPanel(cell);
  });
  const scroll = element.parentElement;
  scroll.addEventListener("scroll", () => scroll.classList.toggle("scrolled", scroll.scrollLeft > 0), { passive: true });
  element.addEventListener("focusin", (event) => remember(table, event.target));
  $$("[data-copy]", box).forEach((button) => button.addEventListener("click", () =>
    copy(report.tables[box.id].texts[button.dataset.copy], button)));
  table.filter.addEventListener("input", filterAll);
  remember(table, $("button", table.heads[0]));
  return table;
});
const tableOf = (inside) => tables.find((table) => table.element.contains(inside));

/** The one place of the table that the Tab key reaches. */
function remember(table, place) {
  if (table.place) table.place.tabIndex = -1;
  table.place = place;
  place.tabIndex = 0;
}

/** Heads and visible rows as lines of places that can have the focus; the row's own heading is none. */
function placesOf(table) {
  const heads = table.heads.map((head) => head.firstElementChild);
  const rows = [...table.body.rows].filter((row) => row.classList.contains("row") && !row.hidden);
  return [heads, ...rows.map((row) => [null, ...[...row.cells].slice(1)])];
}

/** The place next to `from` in the direction of a key, or null. */
function neighbour(table, from, key, cellsOnly = false) {
  const places = placesOf(table);
  const r = places.findIndex((line) => line.includes(from));
  const c = places[r]?.indexOf(from) ?? -1;
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  if (c < 0) return null;
  if (key === "Home") return places[r].find((place) => place !== null);
  if (key === "End") return places[r].at(-1);
  if (!step || (cellsOnly && r + step[0] === 0)) return null;
  const line = places[r + step[0]];
  return line?.[c + step[1]] ?? (c === 0 && step[0] > 0 ? line?.[1] : null) ?? null;
}

function moveInTable(table, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const cell = event.target.closest("td");
  if (cell && (event.key === "Enter" || event.key === " ")) {
    if (cell.classList.contains("open")) openPanel(cell);
    event.preventDefault();
    return;
  }
  const next = neighbour(table, event.target, event.key);
  if (!next) return;
  event.preventDefault();
  next.focus();
  if (panel.open && next.classList.contains("open")) showCell(next);
}

/** Best first, then the other way round, then as it was. Cells without a number stay last, equal ones in their order. */
function sort(table, column) {
  const head = table.heads[column];
  const first = head.dataset.first;
  const other = first === "ascending" ? "descending" : "ascending";
  const next = { none: first, [first]: other, [other]: "none" }[head.getAttribute("aria-sort")];
  table.heads.forEach((each) => each.setAttribute("aria-sort", each === head ? next : "none"));
  table.element.classList.toggle("sorted", next !== "none");
  if (next === "none") {
    table.body.append(...table.lines);
    return;
  }
  const sign = next === "ascending" ? 1 : -1;
  const keys = new Map(table.rows.map((row) => {
    const cell = row.cells[column];
    return [row, column === 0 ? cell.textContent : parseFloat(cell.dataset.value)];
  }));
  const none = (key) => key !== key; // NaN
  table.body.append(...table.lines.filter((line) => !keys.has(line)), ...table.rows.toSorted((one, two) => {
    const [a, b] = [keys.get(one), keys.get(two)];
    if (column === 0) return sign * collator.compare(a, b);
    return none(a) || none(b) ? none(a) - none(b) : sign * (a - b);
  }));
}

// ---- tables: filtering -------------------------------------------------------------------------------------------

const search = $("#search");
const articles = $$("article").map((element) => ({
  element,
  tables: tables.filter((table) => table.article === element),
  figures: $$("figure", element),
  about: $$(".question, h3, .caption", element).map((part) => part.textContent).join(" ").toLowerCase(),
  drawn: $$("figure", element).map((one) => `${one.textContent} ${$(".plate", one).ariaLabel}`).join(" ").toLowerCase(),
}));
const wordsOf = (field) => field.value.toLowerCase().split(/\s+/).filter(Boolean);
const holds = (text, words) => words.every((word) => text.includes(word));

/** A row stays if it holds all words of its table's filter, and those of the search unless the table is about them. */
function filterAll() {
  const wanted = wordsOf(search);
  let rows = 0;
  let left = 0;
  for (const article of articles) {
    const about = holds(article.about, wanted);
    let some = about || holds(`${article.about} ${article.drawn}`, wanted);
    for (const table of article.tables) {
      const own = wordsOf(table.filter);
      let shown = 0;
      table.rows.forEach((row, index) => {
        const text = table.texts[index];
        row.hidden = !(holds(text, own) && (about || holds(`${article.about} ${text}`, wanted)));
        shown += !row.hidden;
      });
      for (const line of table.lines) {
        if (!line.classList.contains("group")) continue;
        const members = table.lines.slice(table.lines.indexOf(line) + 1);
        const end = members.findIndex((member) => member.classList.contains("group"));
        line.hidden = members.slice(0, end < 0 ? undefined : end).every((member) => member.hidden);
      }
      table.count.textContent = own.length || wanted.length ? `${shown} of ${table.rows.length} rows` : "";
      if (table.place.closest("tr").hidden) remember(table, $("button", table.heads[0]));
      some ||= shown > 0;
      rows += shown;
    }
    article.element.hidden = !some;
    left += some;
  }
  for (const section of $$("section.sweep")) section.hidden = $$("article", section).every((one) => one.hidden);
  const counted = [[left, "entry", "entries"], [rows, "row", "rows"]].map(([n, one, many]) => `${n} ${n === 1 ? one : many}`);
  $("#found").textContent = wanted.length ? counted.join(", ") : "";
  $("#nothing").hidden = left > 0;
}
search.addEventListener("input", filterAll);
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && typing?.type === "search" && typing.value) {
    event.preventDefault();
    typing.value = "";
    filterAll();
  } else if (event.key === "Escape" && panel.open) {
    closePanel();
  }
});
$("#contents").addEventListener("click", (event) => {
  if (event.target.closest("a")) $("#contents").hidePopover();
});

// ---- what stands behind a cell -----------------------------------------------------------------------------------

const panel = $("#panel");
let current = null; // the cell that the panel is about

const narrow = matchMedia("(max-width: 46rem)"); // there the panel lies below

function openPanel(cell) {
  const before = cell.getBoundingClientRect().top;
  showCell(cell);
  if (!panel.open) panel.show();
  document.documentElement.classList.add("inspecting");
  scrollBy({ top: cell.getBoundingClientRect().top - before, behavior: "instant" }); // text beside it breaks anew
  reveal(cell);
  panel.focus({ preventScroll: true });
}

function reveal(cell, block = "nearest") {
  cell.scrollIntoView({ block: narrow.matches ? "start" : block, inline: "nearest", behavior: "instant" });
}

function closePanel() {
  panel.close();
  document.documentElement.classList.remove("inspecting");
  current.classList.remove("current");
  address("");
  current.focus();
}

/** What the address line points to, so that a cell can be sent to somebody. */
function address(id) {
  try { history.replaceState(null, "", id ? `#${id}` : location.href.split("#")[0]); } catch { /* not from every place */ }
}

function showCell(cell) {
  current?.classList.remove("current");
  current = cell;
  cell.classList.add("current");
  remember(tableOf(cell), cell);
  const behind = report.cells[cell.id];
  panel.replaceChildren(...contents(behind, report.tables[behind.table], report.tables[behind.table].columns[behind.c]));
  panel.scrollTop = 0;
  address(cell.id);
}

panel.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const next = event.key.startsWith("Arrow") ? neighbour(tableOf(current), current, event.key, true) : null;
  if (!next) return;
  event.preventDefault();
  showCell(next);
  reveal(next);
  panel.focus({ preventScroll: true });
});

const percent = (unit) => (unit ? ` ${unit}` : "");
const print = (value) => value.toFixed(2);
const entry = (name, ...children) => [make("dt", {}, name), make("dd", {}, ...children)];
const facts = (...entries) => make("dl", {}, ...entries.flat());

function contents(behind, table, column) {
  const values = (behind.values ?? []).map(([index, value]) => ({ ...report.trials[index], value }));
  const close = make("button", { type: "button", className: "close", title: "Close (Esc)" }, "×");
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", closePanel);
  const row = table.rows[behind.r];
  const rank = { 1: "best of its column", 2: "second best of its column" }[behind.rank];
  const nothing = column.published ? "The source prints nothing here." : "No number yet.";
  return [
    close,
    make("p", { className: "what" }, `${table.sweep} · ${table.title}`),
    make("h2", { id: "panel-title" }, /^[-\d]/.test(row) ? `${table.rowTitle} ${row}` : row, make("span", {}, column.name)),
    make("p", { className: "number" }, behind.text ? `${behind.text}${percent(column.unit)}` : "—",
      rank ? make("small", {}, rank) : null),
    behind.text ? null : make("p", {}, nothing),
    values.length > 0 && behind.low !== undefined ? strip(behind, values, column.unit) : null,
    column.published ? null : make("p", {}, behind.low === undefined ? "" :
      `${behind.interval}: ${print(behind.low)} to ${print(behind.high)}${percent(column.unit)}; `,
    `n = ${behind.n} of ${behind.expected} seeds.`, behind.waits ? ` ${behind.waits}.` : ""),
    behind.missing ? make("p", { className: "missing" }, `Missing: ${behind.missing.join(", ")}`) : null,
    values.length ? runs(values, column) : null,
    values.length && column.weights ? checkpoints(values, column.weights) : null,
    facts(
      published(behind),
      behind.source ? entry("Source", ...linked(behind.source)) : [],
      column.rule ? entry("Checkpoint", column.rule) : [],
      commits(values),
      entry(column.published ? "Printed" : "Formula", column.formula),
      column.published ? [] : entry("Protocol", table.protocol),
      column.metric ? entry("Metric", make("code", {}, column.metric)) : [],
      (behind.remarks ?? []).flatMap((remark) => entry("Note", table.remarks[remark])),
    ),
    behind.command ? command(behind.command) : null,
    make("p", { className: "keys" }, make("kbd", {}, "← ↑ → ↓"), " neighbouring cells  ", make("kbd", {}, "Esc"), " closes"),
  ].filter(Boolean);
}

/** Seeds as points over their mean and interval. */
function strip(behind, values, unit) {
  const all = [behind.low, behind.high, ...values.map((one) => one.value)];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (value) => (high > low ? 12 + (376 * (value - low)) / (high - low) : 200);
  const label = (value, anchor) => draw("text", { x: x(value), y: 54, "text-anchor": anchor }, print(value));
  const words = `${values.length} values from ${print(Math.min(...values.map((one) => one.value)))} to `
    + `${print(Math.max(...values.map((one) => one.value)))}${percent(unit)}`;
  return draw("svg", { class: "strip", viewBox: "0 0 400 60", role: "img", "aria-label": words },
    draw("rect", { x: x(behind.low), y: 12, width: Math.max(1, x(behind.high) - x(behind.low)), height: 22, rx: 3 }),
    draw("line", { x1: x(behind.mean), x2: x(behind.mean), y1: 8, y2: 38 }),
    ...values.map((one) => draw("circle", { cx: x(one.value), cy: 23, r: 4.5 }, draw("title", {}, `seed ${one.seed}: ${print(one.value)}`))),
    label(behind.low, x(behind.low) < 40 ? "start" : "middle"), label(behind.high, x(behind.high) > 360 ? "end" : "middle"));
}

function runs(values, column) {
  const head = ["Seed", `Value${percent(column.unit)}`, "MLflow run", "Trial"].map((name) => make("th", { scope: "col" }, name));
  return make("table", { className: "runs" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...values.map((one) => {
    const link = make("a", { href: `${report.mlflow}/#/experiments/${one.experiment}/runs/${one.run}`, target: "_blank",
      rel: "noopener", title: "Opens in the MLflow UI (ham ui)" }, make("code", {}, one.run.slice(0, 10)), " ↗");
    return make("tr", {}, make("td", {}, String(one.seed)), make("td", {}, print(one.value)), make("td", {}, link),
      make("td", { title: one.trial }, make("code", {}, one.trial.slice(0, 10))));
  })));
}

/** What papers print in its place, how far ours is from it, and whether the two agree. */
function published(behind) {
  const list = (behind.published ?? []).map((one) => make("li", {}, `${one.text} % in ${one.paper}`,
    make("small", {}, [one.difference ? `ours minus theirs: ${one.difference}` : "", one.verdict ?? "", one.reasons ?? ""].filter(Boolean).join("; ")),
    make("small", {}, ...linked(one.source))));
  return list.length ? entry("Published", make("ul", {}, ...list)) : [];
}

/** Text whose web addresses are links. */
function linked(text) {
  return text.split(/(https?:\/\/[^\s,;)]+)/).map((part, index) =>
    (index % 2 ? make("a", { href: part, target: "_blank", rel: "noopener" }, part) : part));
}

function commits(values) {
  const found = [...new Set(values.map((one) => one.commit).filter(Boolean))];
  if (!values.length) return [];
  return entry("Commit", ...(found.length ? found.map((one) => make("code", {}, `${one} `)) : ["not recorded"]));
}

function checkpoints(values, weights) {
  return make("details", {}, make("summary", {}, `${values.length} checkpoint${values.length === 1 ? "" : "s"} in the trial store`),
    make("ul", {}, ...values.map((one) => make("li", {}, make("code", {}, `trials/${one.trial}/weights/${weights}.pt`)))));
}

function command(text) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return make("div", { className: "command" }, make("code", {}, text), button);
}

/** A cell that the address names: show it, whatever is filtered. */
function followAddress() {
  const cell = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!cell || !report.cells[cell.id] || (cell === current && panel.open)) return;
  if (cell.closest("tr").hidden || cell.closest("article").hidden) {
    for (const field of [search, ...tables.map((table) => table.filter)]) field.value = "";
    filterAll();
  }
  openPanel(cell);
  reveal(cell, "center");
}
addEventListener("hashchange", followAddress);

// ---- figures -----------------------------------------------------------------------------------------------------

const tip = $("#tip");
const NEAR = 20; // pixels from a mark at which its values are shown

$$(".plate").forEach((plate) => {
  const svg = $("svg", plate);
  const marks = $$("[data-mark]", svg).map((element) => {
    const [series, index] = element.dataset.mark.split("-").map(Number);
    const title = $("title", element);
    title.remove(); // the page shows it itself
    return { element, series, index, name: element.dataset.name, text: title.textContent };
  });
  if (!marks.length) return;
  const hidden = new Set();
  const visible = () => marks.filter((mark) => !hidden.has(mark.series));
  let chosen = null;
  plate.tabIndex = 0;
  plate.setAttribute("role", "group");
  plate.setAttribute("aria-roledescription", "figure with values");
  svg.removeAttribute("aria-hidden");

  function choose(mark, point) {
    chosen?.element.classList.remove("chosen");
    chosen = mark;
    if (!mark) { tip.hidden = true; return; }
    mark.element.classList.add("chosen");
    const box = mark.element.getBoundingClientRect();
    const [name, ...rest] = mark.text.split("\n");
    tip.replaceChildren(make("strong", {}, name), ...rest.map((line) => make("span", {}, line)));
    tip.hidden = false;
    const at = point ?? { x: box.x + box.width / 2, y: box.y };
    const left = Math.min(at.x + 14, innerWidth - tip.offsetWidth - 8);
    const top = at.y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${top < 60 ? at.y + 18 : top}px`;
  }

  /** The mark whose box is nearest, and of several that hold the point the one with the nearest middle. */
  function nearest(x, y) {
    let best = null;
    let least = [NEAR, 0];
    for (const mark of visible()) {
      const box = mark.element.getBoundingClientRect();
      const far = Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
      const middle = Math.hypot(x - box.left - box.width / 2, y - box.top - box.height / 2);
      if (far < least[0] || (far === least[0] && middle < least[1])) [best, least] = [mark, [far, middle]];
    }
    return best;
  }

  svg.addEventListener("pointermove", (event) => choose(nearest(event.clientX, event.clientY), { x: event.clientX, y: event.clientY }));
  svg.addEventListener("pointerleave", () => choose(null));
  plate.addEventListener("blur", () => choose(null));
  plate.addEventListener("focus", () => { if (plate.matches(":focus-visible")) choose(chosen ?? visible()[0] ?? null); });
  plate.addEventListener("keydown", (event) => {
    if (event.target !== plate) return;
    if (event.key === "Escape" && chosen) { event.stopPropagation(); choose(null); return; }
    const shown = visible();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!shown.length || !(step || jump)) return;
    event.preventDefault();
    if (!chosen) { choose(shown[0]); return; }
    if (step) {
      choose(shown.at((shown.indexOf(chosen) + step) % shown.length));
      return;
    }
    const others = [...new Set(shown.map((mark) => mark.series))];
    const series = others.at((others.indexOf(chosen.series) + jump) % others.length);
    const own = shown.filter((mark) => mark.series === series);
    choose(own.find((mark) => mark.index === chosen.index) ?? own[0]);
  });
  $$("[id*='-legend_']", svg).forEach((legend) => legendOf(legend, marks, svg, hidden, () => choose(null)));
});

/** Makes the entries of a drawing's legend switches for their series. An entry is what stands before its text, and the text. */
function legendOf(legend, marks, svg, hidden, changed) {
  const seriesOf = Map.groupBy(marks, (mark) => mark.name); // panels share the entry
  let parts = [];
  for (const part of [...legend.children]) {
    parts.push(part);
    const comment = [...part.childNodes].find((node) => node.nodeType === Node.COMMENT_NODE);
    if (!comment) continue;
    const name = comment.data.trim();
    const series = new Set(seriesOf.get(name)?.map((mark) => mark.series));
    const own = parts;
    parts = [];
    if (!series.size) continue;
    const entry = draw("g", { class: "switch", role: "button", tabindex: "0", "aria-pressed": "true", "aria-label": name });
    own[0].before(entry);
    entry.append(...own);
    const box = entry.getBBox();
    entry.prepend(draw("rect", { x: box.x - 3, y: box.y - 3, width: box.width + 6, height: box.height + 6, rx: 2, fill: "transparent" }));
    const toggle = () => {
      const off = entry.getAttribute("aria-pressed") === "true";
      entry.setAttribute("aria-pressed", !off);
      for (const one of series) {
        off ? hidden.add(one) : hidden.delete(one);
        $$(`[data-series="${one}"]`, svg).forEach((element) => element.classList.toggle("off", off));
      }
      changed();
    };
    entry.addEventListener("click", toggle);
    entry.addEventListener("mousedown", (event) => event.preventDefault()); // the ring is for the keyboard
    entry.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    });
  }
}

addEventListener("load", () => setTimeout(followAddress)); // after the browser has gone to the place itself
}
