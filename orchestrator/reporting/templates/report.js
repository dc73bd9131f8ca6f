"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Makes an element; children are elements or texts.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const spanOf = (start, size) => (size === 1 ? `${start}` : `${start}–${start + size - 1}`);
const inPercent = (value) => `${Math.round(100 * value)} %`;
const percent = (share) => (share[3] ? inPercent(share[0]) : "–");
const ends = (low, high) => `[${Math.round(100 * low)}, ${Math.round(100 * high)}]`;
const interval = (share) => (share[3] ? `${percent(share)} ${ends(share[1], share[2])}` : "–");

// Pictures that stand on a card are in the page once.
for (const copy of document.querySelectorAll("img[data-from]")) copy.src = byId(copy.dataset.from).src;

// Addresses: #tab=heatmap&model=..&attribute=..; findings are the tab that need not be named.
const tabs = [...document.querySelectorAll("[role=tab]")];
const panelOf = (tab) => byId(tab.getAttribute("aria-controls"));
const onOpen = {};

function show(tab) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    panelOf(each).hidden = !chosen;
  }
  onOpen[panelOf(tab).id]?.();
}

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const tab = tabs.find((each) => panelOf(each).id === asked.get("tab")) ?? tabs[0];
  const [model, attribute] = [asked.get("model"), asked.get("attribute")];
  show(tab);
  if (panelOf(tab).id === "edits") chooseEdits(model, attribute);
  const found = [...panelOf(tab).querySelectorAll("[data-model]")]
    .find((each) => each.dataset.model === model && each.dataset.attribute === attribute);
  if (found) {
    found.scrollIntoView();
    found.focus({preventScroll: true});
  }
}

function open(tab, keep) {
  const address = `#tab=${panelOf(tab).id}`;
  // The arrow keys pass over tabs on the way to another: these are no places to come back to.
  if (keep) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  show(tab);
}

tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => open(tab, tab.getAttribute("aria-selected") !== "true"));
  tab.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const to = {ArrowRight: number === last ? 0 : number + 1, ArrowLeft: number ? number - 1 : last, Home: 0, End: last}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    open(tabs[to], false);
  });
});

// Paper shows all parts, drawn.
addEventListener("beforeprint", () => Object.values(onOpen).forEach((make) => make()));

// The viewer, where one serves this page: it says its name for these results in the address.
const viewer = new URLSearchParams(location.search).get("viewer");
const inViewer = (place) => `../index.html#${new URLSearchParams({result: viewer, ...place})}`;
if (viewer !== null) {
  for (const link of document.querySelectorAll(".finding .to-viewer")) {
    const {model, attribute} = link.closest(".finding").dataset;
    link.href = inViewer({model, attribute});
    link.hidden = false;
  }
  const whole = document.querySelector(".to-viewer-all");
  whole.querySelector("a").href = inViewer({});
  whole.hidden = false;
}

// A picture, large.
const dialog = byId("large");
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".picture");
  if (!picture) return;
  const image = picture.querySelector("img");
  const shown = dialog.querySelector("img");
  shown.src = image.src;
  shown.alt = image.alt;
  shown.className = image.className;
  dialog.querySelector("p").textContent = image.alt;
  if (viewer !== null) {
    const link = dialog.querySelector(".to-viewer");
    link.href = inViewer({picture: picture.dataset.cell});
    link.hidden = false;
  }
  dialog.showModal();
});
dialog.querySelector("button").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// Triangles: what is under the pointer, and all numbers as a table.
const effectsOf = (block) => {
  const grid = Object.hasOwn(data.effects, block.model) ? data.effects[block.model] : null;
  const row = grid ? grid.attributes.indexOf(block.attribute) : -1;
  return row < 0 ? [] : grid.windows.flatMap(([start, size], i) => grid.effect[row][i] === null ? []
    : [{start, size, effect: grid.effect[row][i], low: grid.ci_low[row][i], high: grid.ci_high[row][i]}]);
};
const endsOf = ({low, high}) => (low === null || high === null ? "" : ends(low, high));

const readout = byId("readout");
for (const svg of document.querySelectorAll("svg.triangle")) {
  const windows = new Map();
  const [left, top, row] = [44, 4, 20];
  svg.addEventListener("pointermove", (event) => {
    if (!windows.size) {
      for (const window of effectsOf(svg.closest("figure").dataset)) windows.set(`${window.start} ${window.size}`, window);
    }
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const size = svg.dataset.sizes.split(" ")[Math.floor((at.y - top) / row)];
    const found = windows.get(`${Math.floor((at.x - left) / svg.dataset.step)} ${size}`);
    readout.hidden = !found;
    if (!found) return;
    readout.textContent = `site${found.size === 1 ? "" : "s"} ${spanOf(found.start, found.size)}: ${inPercent(found.effect)} ${endsOf(found)}`;
    readout.style.left = `${Math.min(event.clientX + 12, innerWidth - readout.offsetWidth - 8)}px`;
    readout.style.top = `${event.clientY + 16}px`;
  });
  svg.addEventListener("pointerleave", () => { readout.hidden = true; });
}
for (const details of document.querySelectorAll("details.numbers")) {
  details.addEventListener("toggle", () => {
    const table = details.querySelector("table");
    if (table.rows.length) return;
    const titles = ["size", "sites", "effect", "interval"];
    const cell = (name, text) => make(name, name === "th" ? {scope: "col"} : {}, text);
    table.append(make("tr", {}, ...titles.map((title) => cell("th", title))));
    for (const window of effectsOf(details.closest("figure").dataset)) {
      const texts = [`${window.size}`, spanOf(window.start, window.size), inPercent(window.effect), endsOf(window)];
      table.append(make("tr", {}, ...texts.map((text) => cell("td", text))));
    }
  }, {once: true});
}
