
// ------------------------------------------------------------------------------------- images
// Each image: its instances, and what each run found on it. Runs are numbered as in data.runs.
const pictures = data.images && data.images.pairs ? data.images : null;
const KINDS = ["right", "wrong place", "class", "duplicate", "background", "missed"];
const SIGNS = { "right": "✓", "wrong place": "↔", "class": "≠", "duplicate": "2×", "background": "✕", "missed": "○" };
const baseline = data.arms.findIndex((arm) => arm.verdict === undefined);
const sizeOf = (area) => (area < 32 ** 2 ? "small" : area < 96 ** 2 ? "medium" : "large");
const runOf = (arm, seed) => data.runs.findIndex((run) => run.arm === arm && run.seed === seed);

const options = (select, values) => values.forEach(([value, text]) => {
  const option = element("option", text, select);
  option.value = value;
});

const gallery = () => {
  const pair = pictures.pairs.find((one) => String(one.arm) === get("arm")) || pictures.pairs[0];
  const seeds = pair.seeds;
  const seed = seeds.includes(Number(get("seed"))) && get("seed") !== "" ? Number(get("seed")) : seeds[0];
  return { pair, seed };
};

const kindsOn = (image, runs) => new Set(runs.flatMap((run) => {
  const seen = image.runs[run];
  return seen ? [...seen.found.map((one) => one.kind), ...(seen.missed.length ? ["missed"] : [])] : [];
}));

const wanted = (image, pair) => {
  const runs = pair.seeds.flatMap((seed) => [runOf(pair.arm, seed), runOf(baseline, seed)]);
  const count = image.truth.length;
  return (get("class") === "" || image.truth.some((one) => String(one.label) === get("class")))
    && (get("size") === "" || image.truth.some((one) => sizeOf(one.area) === get("size")))
    && (get("count") === "" || (get("count") === "4" ? count >= 4 : String(count) === get("count")))
    && (get("kind") === "" || kindsOn(image, runs).has(get("kind")));
};

const ORDERS = {
  better: (a, b) => b[1] - a[1],
  worse: (a, b) => a[1] - b[1],
  agree: (a, b) => b[2] - a[2] || Math.abs(b[1]) - Math.abs(a[1]),
  id: (a, b) => a[0] - b[0],
};

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);

const path = (parent, shape, kind, ground) => {
  if (!shape.path) return;
  const made = drawing("path", { d: shape.path, transform: "translate(.5 .5)", class: "mask " + (ground ? "truth" : kind.replace(" ", "-")) }, parent);
  drawing("title", {}, made).textContent = shape.note || "";
};

// the box of a path of whole pixels, read from its text: it may not be drawn yet
const boxOf = (text) => {
  let [left, top, right, bottom, x, y] = [Infinity, Infinity, -Infinity, -Infinity, 0, 0];
  text.split("M").filter(Boolean).forEach((part) => {
    const numbers = part.match(/-?\d+/g).map(Number);
    for (let i = 0; i < numbers.length; i += 2) {
      [x, y] = i ? [x + numbers[i], y + numbers[i + 1]] : [numbers[0], numbers[1]];
      left = Math.min(left, x); right = Math.max(right, x + 1);
      top = Math.min(top, y); bottom = Math.max(bottom, y + 1);
    }
  });
  return [left, top, right - left, bottom - top];
};

const panel = (parent, title, image, shapes) => {
  const figure = element("figure", "", parent);
  element("figcaption", title, figure);
  const [width, height] = image.size;
  const made = drawing("svg", { viewBox: `0 0 ${width} ${height}`, class: "photo", role: "img", "aria-label": title }, figure);
  drawing("image", { href: image.picture, width, height, preserveAspectRatio: "none" }, made);
  image.truth.forEach((one) => path(made, one, "", true));
  shapes.forEach((one) => path(made, one, one.kind, false));
  return made;
};

const enlarge = (panels, image, shape) => {
  const [width, height] = image.size;
  let box = [0, 0, width, height];
  if (shape && shape.path) {
    const [x, y, w, h] = boxOf(shape.path);
    const side = Math.max(w, h, 8) * 1.3;
    box = [x + w / 2 - side / 2, y + h / 2 - side / 2, side, side];
  }
  panels.forEach((one) => {
    one.setAttribute("viewBox", box.map((value) => value.toFixed(1)).join(" "));
    one.classList.toggle("enlarged", Boolean(shape));
  });
};

const viewer = (pair, seed) => {
  const place = $("#viewer");
  place.replaceChildren();
  const image = pictures.images[get("image")];
  if (!image) return;
  const found = (arm) => image.runs[runOf(arm, seed)] || { found: [], missed: [] };
  const head = element("h3", `image ${image.id}, seed ${seed} `, place);
  const close = element("button", "close", head);
  close.type = "button";
  close.addEventListener("click", () => { set("image", ""); showImages(); });
  const row = element("div", "", place);
  row.className = "panels";
  const arms = [baseline, pair.arm];
  const panels = [panel(row, "ground truth", image, []),
    ...arms.map((arm) => panel(row, data.arms[arm].label, image, found(arm).found))];
  const whole = element("button", "whole image", place);
  whole.type = "button";
  whole.addEventListener("click", () => enlarge(panels, image, null));
  element("span", " Dashed: ground truth. Choose an instance to enlarge its edges.", place).className = "note";
  const lists = element("div", "", place);
  lists.className = "panels";
  const item = (list, text, kind, shape) => {
    const button = element("button", `${SIGNS[kind] || "▢"} ${text}`, element("li", "", list));
    button.type = "button";
    button.className = "instance " + kind.replace(" ", "-");
    button.addEventListener("click", () => enlarge(panels, image, shape));
  };
  const truth = element("ul", "", lists);
  image.truth.forEach((one, i) =>
    item(truth, `${i + 1}: ${pictures.classes[one.label]}, ${sizeOf(one.area)}`, "", one));
  arms.forEach((arm) => {
    const list = element("ul", "", lists);
    const seen = found(arm);
    seen.found.forEach((one) => item(list,
      `${one.kind}, IoU ${one.iou.toFixed(2)}, score ${one.score.toFixed(2)}, ${pictures.classes[one.label]}`
      + (one.of >= 0 ? `, of ${one.of + 1}` : ""), one.kind, one));
    seen.missed.forEach((i) => item(list, `missed: ${i + 1}`, "missed", image.truth[i]));
    if (!seen.found.length && !seen.missed.length) element("li", "nothing is there, and nothing is found", list);
  });
};

const showImages = () => {
  const { pair, seed } = gallery();
  const seeds = $("#images-seed");
  seeds.replaceChildren();
  options(seeds, pair.seeds.map((one) => [one, one]));
  seeds.value = seed;
  $("#images-arm").value = pair.arm;
  ["class", "size", "count", "kind"].forEach((key) => { $("#images-" + key).value = get(key); });
  $("#images-order").value = ORDERS[get("order")] ? get("order") : "better";
  const list = pair.list.filter(([image]) => wanted(pictures.images[image], pair))
    .sort(ORDERS[$("#images-order").value]);
  $("#images-number").textContent = `${list.length} of ${pair.list.length} images of this pair`;
  const sheet = $("#sheet");
  sheet.replaceChildren();
  list.forEach(([number, change, agree]) => {
    const image = pictures.images[number];
    const button = element("button", "", sheet);
    button.type = "button";
    button.className = "tile";
    button.dataset.image = number;
    const photo = document.createElement("img");
    photo.src = image.picture;
    photo.alt = `image ${image.id}`;
    photo.loading = "lazy";
    button.append(photo);
    element("span", `${change > 0 ? "▲" : change < 0 ? "▼" : "="} ${signed(change)}`, button);
    element("small", `${image.id}: ${agree} of ${pair.seeds.length} seeds agree`, button);
    button.addEventListener("click", () => {
      set("image", String(number));
      viewer(pair, seed);
      $("#viewer").scrollIntoView();
    });
  });
  viewer(pair, seed);
};

if (pictures) {
  options($("#images-arm"), pictures.pairs.map((pair) => [pair.arm, data.arms[pair.arm].label]));
  options($("#images-class"), [["", "any"], ...pictures.classes.map((name, i) => [i, name])]);
  options($("#images-kind"), [["", "any"], ...KINDS.map((kind) => [kind, kind])]);
  ["arm", "seed", "order", "class", "size", "count", "kind"].forEach((key) =>
    $("#images-" + key).addEventListener("change", (event) => {
      set(key, event.target.value);
      showImages();
    }));
  listeners.push((tab) => { if (tab === "images-tab") showImages(); });
}
