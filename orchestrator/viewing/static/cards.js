"use strict";

// Pieces of the page. Texts are set as texts, whatever they hold.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Makes the children of a node these, in this order; what stays is not touched, so that nothing flickers or moves.
function arrange(parent, children) {
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
}

function addressOf(values) {
  return "#" + new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined));
}

// The effect as a bar, with the threshold as a mark; what is outside 0 and 1 is cut off, and written in the number.
function barOf(picture) {
  if (picture.effect === null) return null;
  const fill = element("span", { class: picture.effect >= (picture.threshold ?? Infinity) ? "fill passes" : "fill" });
  fill.style.width = `${100 * Math.min(1, Math.max(0, picture.effect))}%`;
  const bar = element("span", { class: "effect", "aria-hidden": "true" }, fill);
  if (picture.threshold !== null) {
    const mark = element("span", { class: "threshold" });
    mark.style.left = `${100 * picture.threshold}%`;
    bar.append(mark);
  }
  return bar;
}

function numbersOf(picture) {
  const numbers = [];
  if (picture.effect !== null) numbers.push(["effect", decimal(picture.effect)]);
  if (picture.score !== null) numbers.push(["score", decimal(picture.score, 3)]);
  if (picture.seen !== null) numbers.push(["judge", picture.seen]);
  if (!numbers.length) numbers.push(["not scored", ""]);
  return element(
    "span", { class: "numbers" },
    ...numbers.map(([name, value]) => element("span", {}, `${name} `, value ? element("b", {}, value) : "")),
  );
}

// Small images are enlarged pixel by pixel, large ones are smoothed.
function sized(image) {
  image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth < 160);
}
document.addEventListener("load", (event) => event.target instanceof HTMLImageElement && sized(event.target), true);
document.addEventListener("error", (event) => event.target instanceof HTMLImageElement && unreadable(event.target), true);

// Why pictures cannot be read: one line per file that holds them.
const damaged = new Map();

async function unreadable(image) {
  const frame = image.closest(".frame");
  if (!frame) return;
  frame.classList.add("broken");
  const file = image.getAttribute("src").split("/")[1];
  if (damaged.has(file)) return;
  damaged.set(file, "");
  try {
    const answer = await fetch(image.src);
    if (answer.ok) return;
    damaged.set(file, known.details ? `${image.getAttribute("src")}: missing` : (await answer.text()).trim());
  } catch {
    // The server does not answer, which is said already.
    damaged.delete(file);
    return;
  }
  problems();
}

let cards = new Map(); // Of the pictures that are shown, by key and place.

// Returns the card of a picture; the one that is shown already, where nothing changed.
function cardOf(picture, { href, about = "", prompt = "", tag = "" }, kept) {
  const title = titleOf(picture);
  const alt = `${title}, seed ${picture.seed}, ${picture.model}, ${picture.attribute}: ${picture.prompt}`;
  const said = JSON.stringify([href, about, prompt, tag, title, picture.effect, picture.score, picture.threshold]);
  const before = cards.get(picture.key);
  if (before?.dataset.said === said && !kept.has(picture.key)) {
    kept.set(picture.key, before);
    return before;
  }
  const image = before && !kept.has(picture.key) ? before.querySelector("img") : element("img", { loading: "lazy", decoding: "async" });
  if (image.getAttribute("src") === null) image.src = `picture/${picture.file}.png`;
  image.alt = alt;
  const card = element(
    "li", { class: [picture.control, picture.picked || tag === "chosen" ? "picked" : tag ? "best" : ""].join(" ").trim() },
    element(
      "a", { href },
      element("span", { class: "frame" }, image, tag ? element("span", { class: "tag" }, tag) : ""),
      barOf(picture),
      element("span", { class: "title" }, title),
      numbersOf(picture),
      about ? element("span", { class: "about" }, about) : null,
      prompt ? element("span", { class: "about prompt", title: prompt }, prompt) : null,
    ),
  );
  card.dataset.said = said;
  card.dataset.picture = picture.cell;
  if (!kept.has(picture.key)) kept.set(picture.key, card);
  return card;
}

// A select with a label that keeps its element, and with it the focus, while its options change.
function fieldOf(select) {
  const id = `f-${select.name}`;
  let field = document.getElementById(id)?.closest(".field");
  if (!field) {
    const input = select.number ? element("input", { type: "number", step: "0.1" }) : element("select");
    input.id = id;
    input.name = select.name;
    field = element("div", { class: select.name === "prompt" ? "field wide" : "field" }, element("label", { for: id }), input);
  }
  field.querySelector("label").textContent = select.label;
  const input = field.querySelector("select, input");
  input.classList.toggle("set", Boolean(select.set) && select.chosen !== "");
  if (select.number) {
    if (document.activeElement !== input) input.value = select.chosen;
    return field;
  }
  const options = JSON.stringify(select.options);
  if (input.dataset.options !== options) {
    input.dataset.options = options;
    input.replaceChildren(...select.options.map(([value, text]) => {
      const option = element("option", {}, text);
      option.value = value;
      return option;
    }));
  }
  input.value = select.chosen;
  return field;
}
