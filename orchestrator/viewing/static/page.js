"use strict";

// Filters: a choice is shown at once, under an address of its own; the keyboard stays where it was.
const form = document.getElementById("filters");
const FOCUS = "loco-sweep-focus";
if (form) {
  let waiting = 0;
  form.addEventListener("change", () => {
    clearTimeout(waiting);
    // Arrow keys pass over options on the way to the one that is meant.
    waiting = setTimeout(() => {
      sessionStorage.setItem(FOCUS, document.activeElement?.id ?? "");
      form.requestSubmit();
    }, 300);
  });
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
  });
  const focused = document.getElementById(sessionStorage.getItem(FOCUS) || " ");
  sessionStorage.removeItem(FOCUS);
  focused?.focus({ preventScroll: true });
  // Back: the browser may bring the page as it was left, with the choice that led away from it.
  addEventListener("pageshow", (event) => event.persisted && form.reset());
}

// Small images are enlarged pixel by pixel, large ones are smoothed.
function sized(image) {
  image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth < 160);
}
document.addEventListener("load", (event) => event.target instanceof HTMLImageElement && sized(event.target), true);
document.querySelectorAll("img").forEach((image) => image.complete && sized(image));

// One picture, large, with its columns.
const dialog = document.getElementById("large");
const cards = [...document.querySelectorAll("[data-details]")];
const image = dialog.querySelector("img");
const list = dialog.querySelector("dl");
const [back, on] = dialog.querySelectorAll("[data-go]");
let at = 0;

async function show(index) {
  at = index;
  const card = cards[at];
  const thumbnail = card.querySelector("img");
  document.getElementById("large-title").textContent = card.querySelector(".title").textContent;
  image.src = thumbnail.src;
  image.alt = thumbnail.alt;
  dialog.querySelector(".beside").href = card.dataset.beside;
  back.disabled = at === 0;
  on.disabled = at === cards.length - 1;
  if (!dialog.open) dialog.showModal();
  let columns;
  try {
    const answer = await fetch(card.dataset.details);
    columns = answer.ok ? Object.entries(await answer.json()) : [["not known", (await answer.text()).trim()]];
  } catch {
    columns = [["not known", "the server does not answer; is loco-sweep view still running?"]];
  }
  if (cards[at] === card) list.replaceChildren(...columns.flatMap(column));
}

function column([name, value]) {
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  text.classList.toggle("id", name.endsWith("_id"));
  return [term, text];
}

function go(step) {
  if (cards[at + step]) show(at + step);
}

cards.forEach((card, index) =>
  card.addEventListener("click", (event) => {
    // A new tab or window shows the bare image.
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    list.replaceChildren();
    show(index);
  }),
);
for (const button of [back, on]) button.addEventListener("click", () => go(Number(button.dataset.go)));
dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  go(step);
});
dialog.addEventListener("close", () => cards[at]?.focus());
