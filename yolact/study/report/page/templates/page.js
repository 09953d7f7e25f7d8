const root = document.documentElement;
const $ = (query, inside = document) => inside.querySelector(query);
const all = (query, inside = document) => [...inside.querySelectorAll(query)];
const data = JSON.parse($("#data").textContent);
root.classList.add("script");

// what the address says: #place?key=value&...; the same address opens the same view
const state = { place: "", values: new URLSearchParams() };
const read = () => {
  const [place, values] = location.hash.slice(1).split("?");
  state.place = decodeURIComponent(place || "");
  state.values = new URLSearchParams(values || "");
};
const write = () => {
  const values = state.values.toString();
  history.replaceState(null, "", "#" + encodeURIComponent(state.place) + (values ? "?" + values : ""));
};
const set = (key, value) => {
  if (value === "" || value === null) state.values.delete(key);
  else state.values.set(key, value);
  write();
};
const get = (key) => state.values.get(key) || "";

// ------------------------------------------------------------------------------------- tabs
const tabs = all(".tab");
const open = () => {
  const target = document.getElementById(state.place);
  const tab = (target && target.closest(".tab")) || tabs[0];
  tabs.forEach((one) => { one.hidden = one !== tab; });
  all("#tabs a").forEach((link) => {
    if (link.hash === "#" + tab.id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  if (target && target !== tab) target.scrollIntoView();
  listeners.forEach((listen) => listen(tab.id));
};
const listeners = [];
all('a[href^="#"]').forEach((link) => link.addEventListener("click", (event) => {
  event.preventDefault();
  state.place = link.hash.slice(1);
  history.pushState(null, "", "#" + state.place + (state.values.size ? "?" + state.values : ""));
  open();
  if (link.closest("#tabs")) window.scrollTo(0, 0);
}));

// ----------------------------------------------------------------------------------- tables
const number = (text) => (text !== "" && !Number.isNaN(Number(text)) ? Number(text) : null);
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x !== null ? -1 : 1;
  return a.localeCompare(b);
};
// published rows stay below the arm that they belong to
const groups = (body) => {
  const found = [];
  [...body.rows].forEach((row) => {
    if (row.classList.contains("published") && found.length) found[found.length - 1].push(row);
    else found.push([row]);
  });
  return found;
};
const sort = (table, column, down) => {
  const body = table.tBodies[0];
  const value = (group) => group[0].cells[column].dataset.sort || "";
  const sorted = groups(body).sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return down ? compare(y, x) : compare(x, y);
  });
  sorted.flat().forEach((row) => body.append(row));
  all("th", table.tHead).forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
};
const sortable = all("figure.table").filter((figure) => $("thead", figure));
const sortByAddress = () => sortable.forEach((figure) => {
  const found = /^(\d+)(d?)$/.exec(get("sort-" + figure.id));
  const table = $("table", figure);
  if (found && Number(found[1]) < table.tHead.rows[0].cells.length)
    sort(table, Number(found[1]), found[2] === "d");
});
sortable.forEach((figure) => all("thead th", figure).forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.title = "sort by this column";
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    const down = column ? now !== "descending" : now === "ascending";
    sort($("table", figure), column, down);
    set("sort-" + figure.id, column + (down ? "d" : ""));
  });
}));

// ------------------------------------------------------------------------- filter and arms
const filter = $("#filter");
const boxes = all("#arms input");
const show = () => {
  const words = filter.value.toLowerCase();
  const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  all("[data-arm]").forEach((element) => {
    const row = element.tagName === "TR" || element.tagName === "LI";
    const wanted = !row || !words || element.classList.contains("baseline")
      || data.arms[element.dataset.arm].label.toLowerCase().includes(words);
    element.classList.toggle("off", off.has(element.dataset.arm) || !wanted);
  });
  $("#arms summary").textContent = off.size
    ? `arms shown: ${boxes.length - off.size} of ${boxes.length}` : "arms shown";
};
const showByAddress = () => {
  filter.value = get("filter");
  const off = get("off").split(",");
  boxes.forEach((box) => { box.checked = !off.includes(box.value); });
  show();
};
filter.addEventListener("input", () => { set("filter", filter.value); show(); });
boxes.forEach((box) => box.addEventListener("change", () => {
  set("off", boxes.filter((one) => !one.checked).map((one) => one.value).join(","));
  show();
}));
$("#tools").hidden = false;

// ------------------------------------------------------------------------- what a dot means
const tip = $("#tip");
const element = (name, text, parent) => {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
};
const drawing = (name, attributes, parent) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  parent.append(made);
  return made;
};
const curve = (title, points, colour) => {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const path = points.map(([x, y]) =>
    `${(196 * (x - left) / (right - left || 1) + 2).toFixed(1)},`
    + `${(56 - 52 * (y - low) / (high - low || 1)).toFixed(1)}`).join(" ");
  element("small", `${title}: ${ys[0].toPrecision(3)} to ${ys[ys.length - 1].toPrecision(3)}`, tip);
  const image = drawing("svg", { viewBox: "0 0 200 60", preserveAspectRatio: "none" }, tip);
  drawing("polyline", { points: path, fill: "none", stroke: `var(--${colour})`, "stroke-width": 1.5 }, image);
};
const explain = (dot) => {
  const run = data.runs.find((one) =>
    String(one.arm) === dot.dataset.arm && String(one.seed) === dot.dataset.seed);
  if (!run) return;
  const arm = data.arms[run.arm];
  tip.replaceChildren();
  element("b", `${arm.label}, seed ${run.seed}`, tip);
  element("div", Object.entries(run.metrics)
    .map(([key, value]) => `${key} ${value === null ? "–" : value.toFixed(2)}`).join(", "), tip);
  ["mask", "ap"].filter((key) => run.curves[key]).forEach((key) =>
    curve(key === "ap" ? "mask AP at validations" : "mask loss / its first value",
      run.curves[key], arm.colour));
  if (run.command) element("code", run.command, tip);
  tip.hidden = false;
  const at = dot.getBoundingClientRect();
  const left = Math.min(at.right + 10, innerWidth - tip.offsetWidth - 8);
  const top = Math.min(at.top, innerHeight - tip.offsetHeight - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
};
let pinned = false;
const hide = () => { tip.hidden = true; pinned = false; };
all("svg [data-seed]").forEach((dot) => {
  dot.addEventListener("mouseenter", () => { if (!pinned) explain(dot); });
  dot.addEventListener("mouseleave", () => { if (!pinned) hide(); });
  dot.addEventListener("focus", () => explain(dot));
  dot.addEventListener("click", (event) => { event.stopPropagation(); explain(dot); pinned = true; });
});
document.addEventListener("click", (event) => { if (!tip.contains(event.target)) hide(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

// ---------------------------------------------------------------------------- light and dark
const theme = $("#theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const view = () => { read(); sortByAddress(); showByAddress(); open(); };
addEventListener("hashchange", view);
addEventListener("popstate", view);
