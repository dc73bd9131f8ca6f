// Edits: what they flip against what they spare, how strength matters, and all of them as a table.
const FORMS = {
  circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", diamond: "M0-6L6 0L0 6L-6 0z", square: "M-4.5-4.5h9v9h-9z",
  "triangle-up": "M0-6L5.5 4.5h-11z", "triangle-down": "M0 6L5.5-4.5h-11z", cross: "M-4-4L4 4M4-4L-4 4", plus: "M0-5.5V5.5M-5.5 0H5.5",
  star: "M0-6.5L1.8-2.2L6.2-2L2.7 .9L3.9 5.3L0 2.8L-3.9 5.3L-2.7 .9L-6.2-2L-1.8-2.2z", hexagon: "M-5.5 0L-2.8-4.8H2.8L5.5 0L2.8 4.8H-2.8z",
  lozenge: "M0-7L3.6 0L0 7L-3.6 0z", bow: "M-5.5-4.5L5.5 4.5V-4.5L-5.5 4.5z", pentagon: "M0-6L5.7-1.8L3.5 4.9H-3.5L-5.7-1.8z",
};
const shapeOf = new Map(data.shapes.map((shape) => [shape.name, shape]));
const openForm = (form) => form === "cross" || form === "plus";

function symbol(name, at, more = {}) {
  const shape = shapeOf.get(name);
  const drawn = draw("path", {
    class: `mark${openForm(shape.form) ? " open" : ""}`, d: FORMS[shape.form], transform: `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`, ...more,
  });
  drawn.style.setProperty("--mark", shape.colour);
  return drawn;
}

const PLOT = {width: 540, height: 420, left: 74, right: 14, top: 40, bottom: 48};

// A frame with an axis of shares from 0 to 1 upwards, and the ticks that are given below.
function frame(label, xTitle, yTitle, ticks) {
  const {width, height, left, right, top, bottom} = PLOT;
  const y = (value) => top + (height - top - bottom) * (1 - value);
  const svg = draw("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": label});
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(draw("path", {class: "grid", d: `M${left} ${y(value)}H${width - right}`}),
      draw("text", {class: "end", x: left - 8, y: y(value) + 4}, inPercent(value)));
  }
  for (const [x, text] of ticks) {
    svg.append(draw("path", {class: "grid", d: `M${x} ${top}V${height - bottom}`}), draw("text", {x, y: height - bottom + 18}, text));
  }
  svg.append(draw("text", {x: (left + width - right) / 2, y: height - 8}, xTitle),
    draw("text", {transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`}, yTitle));
  return {svg, y};
}

function legend(entries) {
  return make("ul", {class: "legend"}, ...entries.map(([drawn, text]) => {
    const key = draw("svg", {viewBox: "-15 -8 30 16", width: 30, height: 16, "aria-hidden": "true"}, drawn);
    return make("li", {}, key, text);
  }));
}

// Marks at the same place would hide each other: each goes to the nearest free spot of a spiral around its own, and stays
// where there is none. The more there are, the smaller they are.
const CELL = 18, SPOTS = 80, MANY = 150;
const sizeOf = (count) => Math.max(0.4, Math.min(1, Math.sqrt(MANY / count)));
function spread(points, scale) {
  const taken = new Map();
  const near = (x, y) => [-1, 0, 1].flatMap((i) => [-1, 0, 1].flatMap((j) => taken.get(`${Math.floor(x / CELL) + i} ${Math.floor(y / CELL) + j}`) ?? []));
  for (const point of points.sort((a, b) => b.edit.chosen - a.edit.chosen)) {
    const own = [point.x, point.y];
    point.radius = scale * (point.edit.chosen ? 9 : 6);
    const free = Array.from({length: SPOTS}).some((_, spot) => {
      const [away, angle] = [4.5 * scale * Math.sqrt(spot), 2.4 * spot];
      point.x = Math.min(Math.max(own[0] + away * Math.cos(angle), PLOT.left + 8), PLOT.width - 9);
      point.y = Math.min(Math.max(own[1] + away * Math.sin(angle), 9), PLOT.height - PLOT.bottom - 8);
      return near(point.x, point.y).every((other) => Math.hypot(other.x - point.x, other.y - point.y) >= other.radius + point.radius);
    });
    if (!free) [point.x, point.y] = own;
    const key = `${Math.floor(point.x / CELL)} ${Math.floor(point.y / CELL)}`;
    taken.set(key, [...(taken.get(key) ?? []), point]);
  }
  return points.reverse();
}

function drawPlane(edits) {
  const {width, left, right} = PLOT;
  const x = (value) => left + 8 + (width - left - right - 16) * value;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => [x(value), inPercent(value)]);
  const shown = edits.filter((edit) => edit.neighbours_kept[3]);
  if (!shown.length) { byId("plane-plot").replaceChildren("No edits with neighbours here."); return; }
  const {svg, y} = frame(`${shown.length} edits: share flipped across, neighbours kept upwards; the table below has the numbers`,
    "flipped to the donor's class", "neighbours kept", ticks);
  const scale = sizeOf(shown.length);
  const points = shown.map((edit) => ({edit, x: x(edit.flipped[0]), y: y(edit.neighbours_kept[0])}));
  for (const {edit, x: right, y: down} of spread(points, scale)) {
    const mark = symbol(edit.shape, [right, down], edit.chosen ? {class: `mark chosen${openForm(shapeOf.get(edit.shape).form) ? " open" : ""}`} : {});
    mark.setAttribute("transform", `${mark.getAttribute("transform")} scale(${(edit.chosen ? 1.6 : 1) * scale})`);
    const words = [`${edit.attribute} in ${edit.model}`, edit.label, `flipped ${interval(edit.flipped)}`, `neighbours kept ${interval(edit.neighbours_kept)}`];
    mark.append(draw("title", {}, words.join("\n")));
    svg.append(mark);
  }
  const names = data.shapes.map((shape) => shape.name).filter((name) => shown.some((edit) => edit.shape === name));
  byId("plane-plot").replaceChildren(svg, legend(names.map((name) => [symbol(name, [0, 0]), name])));
}

const written = (value) => value.toLocaleString("en", {maximumSignificantDigits: 3, useGrouping: false});

// Shares pooled over attributes, by strength, of edits with a relative lambda; the absolute lambda that was published is marked.
function curvesOf(edits) {
  const curves = new Map(), editors = new Set(edits.filter((edit) => edit.lambda).map((edit) => edit.editor));
  for (const edit of edits) {
    if (!edit.lambda || !["localized", "by_hand", "all_sites"].includes(edit.scope)) continue;
    const place = edit.scope === "by_hand" ? edit.localization : edit.scope.replace("_", " ");
    const key = `${editors.size > 1 ? `${edit.editor} ` : ""}${place}, ${edit.tokens}`;
    if (!curves.has(key)) curves.set(key, {shape: edit.shape, points: new Map()});
    const {points} = curves.get(key);
    if (!points.has(edit.lambda)) points.set(edit.lambda, []);
    points.get(edit.lambda).push(edit);
  }
  return curves;
}

function pooled(edits, name) {
  const [hits, of] = edits.reduce(([h, n], edit) => [h + edit[name][0] * edit[name][3], n + edit[name][3]], [0, 0]);
  return of ? hits / of : null;
}

const CURVE_FORMS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "pentagon"];

function drawCurve(edits) {
  const curves = curvesOf(edits);
  if (!curves.size) { byId("curve-plot").replaceChildren("No edits with a relative λ here."); return; }
  const scaled = edits.find((edit) => edit.lambda && edit.lambda_absolute && edit.lambda_published);
  const paper = scaled && scaled.lambda_published * scaled.lambda / scaled.lambda_absolute;
  const lambdas = [...new Set([...curves.values()].flatMap(({points}) => [...points.keys()]))].sort((a, b) => a - b);
  const all = paper ? [...lambdas, paper] : lambdas;
  const [low, high] = [Math.log10(Math.min(...all)), Math.log10(Math.max(...all))];
  const {width, left, right, top, height, bottom} = PLOT;
  const x = (value) => left + 24 + (width - left - right - 48) * (high > low ? (Math.log10(value) - low) / (high - low) : 0.5);
  const apart = lambdas.filter((value, i) => i === 0 || x(value) - x(lambdas[i - 1]) > 44);
  const {svg, y} = frame(`Shares flipped and neighbours kept by λ, of ${curves.size} kinds of edits`,
    "λ as a share of the keys' mean squared norm", "share of pictures", apart.map((value) => [x(value), written(value)]));
  if (paper) {
    svg.append(draw("path", {class: "paper", d: `M${x(paper)} ${top}V${height - bottom}`}),
      draw("text", {class: x(paper) > width / 2 ? "end" : "start", x: x(paper) + (x(paper) > width / 2 ? -4 : 4), y: top - 8}, "the paper's λ"));
  }
  const entries = [...curves].flatMap(([key, {points}], number) => ["flipped", "neighbours_kept"].map((name) => {
    const at = [...points.keys()].sort((a, b) => a - b).map((value) => [value, pooled(points.get(value), name)]).filter((pair) => pair[1] !== null);
    const line = {class: `curve c${number % 6}${name === "flipped" ? "" : " kept"}`};
    const form = FORMS[CURVE_FORMS[number % 6]];
    // Curves that agree stand side by side.
    const aside = (value) => (x(value) + 5 * (number - (curves.size - 1) / 2)).toFixed(1);
    if (at.length) svg.append(draw("path", {...line, d: `M${at.map(([value, share]) => `${aside(value)} ${y(share).toFixed(1)}`).join("L")}`}));
    const words = `${key}: ${name.replace("_", " ")}`;
    for (const [value, share] of at) {
      svg.append(draw("path", {class: `dot c${number % 6}${name === "flipped" ? "" : " kept"}`, d: form, transform: `translate(${aside(value)} ${y(share).toFixed(1)})`},
        draw("title", {}, `${words}\nλ ${written(value)}: ${inPercent(share)}`)));
    }
    const key_ = draw("g", {}, draw("path", {...line, d: "M-14 0H14"}), draw("path", {class: line.class.replace("curve", "dot"), d: form}));
    return [key_, words];
  }));
  byId("curve-plot").replaceChildren(svg, legend(entries));
}

function shareCell(share) {
  const cell = make("td", {class: "share"}, make("span", {}, percent(share)));
  if (!share[3]) return cell;
  const [value, low, high] = share.map((part) => Math.round(100 * part));
  cell.firstChild.append(" ", make("small", {}, `[${low}, ${high}]`));
  cell.append(draw("svg", {class: "interval", viewBox: "-1 0 102 8", "aria-hidden": "true"},
    draw("path", {d: `M${low} 4H${high}`}), draw("path", {class: "value", d: `M${value} 0v8`})));
  return cell;
}

function fillTable(edits) {
  const titles = ["attribute", "edit", "scope", "flipped", "reworded", "neighbours", "unrelated", "content"];
  const head = make("tr", {}, ...titles.map((title) => make("th", {scope: "col"}, title)));
  const rows = edits.map((edit) => {
    const key = draw("svg", {viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true"}, symbol(edit.shape, [0, 0]));
    return make("tr", edit.chosen ? {class: "chosen"} : {}, make("td", {}, edit.attribute, make("small", {}, edit.model)), make("td", {}, edit.label),
      make("td", {class: "scope"}, key, edit.shape),
      ...["flipped", "paraphrased", "neighbours_kept", "unrelated_kept", "content_kept"].map((name) => shareCell(edit[name])));
  });
  byId("edits-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

// Which edits are shown: all, or those of one finding.
const shown = byId("edits-shown");
const nameOf = (block) => JSON.stringify([block.model, block.attribute]);
let drawnEdits = null;

function drawEdits() {
  if (!shown || drawnEdits === shown.value) return;
  drawnEdits = shown.value;
  const edits = data.edits.filter((edit) => !shown.value || nameOf(edit) === shown.value);
  drawPlane(edits);
  drawCurve(edits);
  fillTable(shown.value ? edits : edits.filter((edit) => edit.chosen));
}

function chooseEdits(model, attribute) {
  if (!shown) return;
  const wanted = model === null ? "" : nameOf({model, attribute});
  shown.value = [...shown.options].some((option) => option.value === wanted) ? wanted : "";
  drawEdits();
}

if (shown) {
  const blocks = new Map(data.edits.map((edit) => [nameOf(edit), edit]));
  shown.append(new Option("all chosen edits and their baselines", ""),
    ...[...blocks].map(([name, block]) => new Option(`${block.model} · ${block.attribute}`, name)));
  shown.addEventListener("change", () => {
    const [model, attribute] = shown.value ? JSON.parse(shown.value) : [];
    history.pushState(null, "", `#${new URLSearchParams(shown.value ? {tab: "edits", model, attribute} : {tab: "edits"})}`);
    drawEdits();
  });
  onOpen.edits = drawEdits;
}

addEventListener("hashchange", follow);
follow();
