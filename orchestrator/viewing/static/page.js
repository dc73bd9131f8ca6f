"use strict";

// The address says what is shown; a choice makes an address of its own, so that back and forward lead through them.
const form = document.getElementById("filters");
const heading = document.getElementById("heading");
const steps = document.querySelector(".steps");
const dialog = document.getElementById("large");
const [back, on] = dialog.querySelectorAll("[data-go]");
let shown = []; // Pictures of the page, in their order.
let stepping = []; // Addresses of the prompt before and the prompt after.
let changed = { name: "", at: 0 };

function addressNow() {
  return new URLSearchParams(location.hash.slice(1));
}

function go(values, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", addressOf(values));
  render();
}

function valuesNow(without = []) {
  return Object.fromEntries([...addressNow()].filter(([name]) => !without.includes(name)));
}

function render() {
  const address = addressNow();
  problems();
  const all = address.get("view") === "pictures";
  navigate(address, all);
  if (!known.pictures.length) return nothing();
  const view = all ? allPictures(address) : sideBySide(address);
  form.hidden = false;
  const clear = all && view.filtered ? document.getElementById("clear") ?? element("a", { id: "clear", class: "clear", href: "#view=pictures" }, "Clear") : null;
  arrange(form, [...view.fields.map(fieldOf), ...(clear ? [clear] : [])]);
  heading.className = all ? "" : "prompt";
  if (heading.textContent !== view.heading) heading.textContent = view.heading;
  prompts(view, all);
  pagers(view, all);
  const kept = new Map();
  shown = view.sections.flatMap((section) => section.pictures);
  arrange(document.getElementById("sections"), view.sections.flatMap((section, i) => sectionOf(section, i, kept, all, view)));
  if (!shown.length) arrange(document.getElementById("sections"), [emptiness("No picture matches", "No picture has all of these.")]);
  cards = kept;
  explain();
  document.title = `${document.querySelector("h1").textContent}: ${all ? "all pictures" : "side by side"}`;
  large(address);
}

// What the bars are, where any is shown.
function explain() {
  const legend = document.getElementById("legend");
  const thresholds = new Set(shown.filter((p) => p.effect !== null && p.threshold !== null).map((p) => p.threshold));
  legend.hidden = !shown.some((p) => p.effect !== null);
  const mark = thresholds.size ? ` The line is the threshold${thresholds.size > 1 ? "" : `, ${[...thresholds][0]}`}.` : "";
  legend.textContent = `Effect: 0 = no change, 1 = as much as the donor everywhere, on average.${mark}`;
}

function sectionOf(section, place, kept, all, view) {
  const id = `section-${place}`;
  const sections = document.getElementById("sections");
  const nodes = [];
  if (section.title) {
    const title = sections.querySelector(`#${id}-title`) ?? element("h2", { id: `${id}-title` });
    const link = section.report && findingOf(section.report);
    const said = JSON.stringify([section.title, link]);
    if (title.dataset.said !== said) {
      title.dataset.said = said;
      title.replaceChildren(section.title, ...(link ? [" ", element("a", { href: link }, "Finding in the report")] : []));
    }
    nodes.push(title);
  }
  const grid = sections.querySelector(`#${id}`) ?? element("ul", { id });
  grid.className = `grid ${section.kind ?? ""}`.trim();
  const several = section.several ?? new Set();
  arrange(grid, section.pictures.map((picture) => {
    const about = ["result", "model", "attribute", "intervention"].filter((name) => several.has(name)).map((name) => picture[name]);
    if (several.has("seed")) about.push(`seed ${picture.seed}`);
    const tag = section.tags?.get(picture) ?? (picture.picked ? "picked" : "");
    const values = { ...(all ? valuesNow(["picture"]) : { ...valuesNow(["picture"]), ...view.chosen, compare: view.compared }), picture: picture.cell };
    if (known.results.length > 1 && (all || view.compared === "results")) values.result = picture.result;
    return cardOf(picture, { href: addressOf(values), about: about.filter(Boolean).join(" · "), prompt: several.has("prompt") ? picture.prompt : "", tag }, kept);
  }));
  nodes.push(grid);
  return nodes;
}

function findingOf(picture) {
  const { report, name } = known.results[picture.number];
  if (!report) return null;
  return `${report}?${new URLSearchParams({ viewer: name })}${addressOf({ model: picture.model, attribute: picture.attribute })}`;
}

function problems() {
  const several = known.results.length > 1;
  const lines = [...(lost ? [lost] : []), ...[...damaged.values()].filter(Boolean), ...known.results.flatMap((result) => result.problems)];
  for (const result of known.results)
    if (several && known.pictures.length && !known.pictures.some((p) => p.number === result.number))
      lines.push(`${result.name}: ${result.images === "none" ? "no images were kept (images: none)" : "no images yet"}`);
  const list = document.getElementById("problems");
  // Said once, not whenever something else changes.
  if (list.dataset.said !== JSON.stringify(lines)) {
    list.dataset.said = JSON.stringify(lines);
    list.replaceChildren(...lines.map((line) => element("p", { class: "problem", role: "alert" }, line)));
  }
  const reports = known.results.filter((result) => result.report);
  arrange(document.getElementById("reports"), reports.map((result) =>
    element("a", { href: `${result.report}?${new URLSearchParams({ viewer: result.name })}` }, several ? `Report of ${result.name}` : "Report")));
}

function navigate(address, all) {
  const kept = Object.fromEntries(["result", "model", "attribute", "seed"].map((name) => [name, address.get(name)]));
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const current = (link.dataset.view === "pictures") === all;
    link.toggleAttribute("aria-current", current);
    if (current) link.setAttribute("aria-current", "page");
    link.href = addressOf({ view: link.dataset.view, ...kept });
  }
}

function emptiness(title, ...text) {
  return element("div", { class: "empty" }, element("h2", {}, title), element("p", {}, ...text));
}

function nothing() {
  form.hidden = true;
  heading.textContent = "";
  steps.hidden = true;
  const code = (text) => element("code", {}, text);
  const none = known.results.every((result) => result.images === "none");
  const images = known.results.find((result) => result.images !== "none")?.images;
  arrange(document.getElementById("sections"), [
    none
      ? emptiness(
          "No images were kept", "The sweep says ", code("images: none"), ". Write ", code("images: report"), " (the first two seeds) or ",
          code("images: all"), " into the sweep file: cells that are computed from then on keep their images. For cells that are done, run the sweep into a new folder with ",
          code("--results"), ".",
        )
      : emptiness(
          "No images yet", "The sweep keeps images (", code(`images: ${images}`), "). They appear here as soon as the first units are published.",
        ),
  ]);
}

function prompts(view, all) {
  steps.hidden = all;
  stepping = [];
  if (all) return;
  const options = view.fields.find(({ name }) => name === "prompt").options.map(([value]) => value);
  steps.hidden = options.length < 2;
  const at = options.indexOf(view.chosen.prompt);
  stepping = [options[at - 1], options[at + 1]].map((prompt) =>
    prompt === undefined ? null : { ...valuesNow(["picture"]), ...view.chosen, compare: view.compared, prompt },
  );
  steps.querySelectorAll("button").forEach((button, i) => (button.disabled = stepping[i] === null));
}

function pagers(view, all) {
  for (const pager of document.querySelectorAll(".pager")) {
    pager.hidden = !all || view.pages < 2;
    const link = (step, text, rel) =>
      view.page + step < 1 || view.page + step > view.pages ? null : element("a", { rel, href: addressOf({ ...valuesNow(["picture"]), page: view.page + step }) }, text);
    pager.replaceChildren(...(pager.hidden ? [] : [link(-1, "Previous", "prev"), link(1, "Next", "next")].filter(Boolean)));
  }
}

// A choice in the form. Arrow keys pass over options on the way to the one that is meant: these are one address.
form.addEventListener("change", (event) => {
  const { name, value } = event.target;
  const all = addressNow().get("view") === "pictures";
  const replace = changed.name === name && Date.now() - changed.at < 800;
  changed = { name, at: Date.now() };
  go({ ...valuesNow(["picture", "page"]), ...(all ? {} : chosenNow()), [name]: value }, { replace });
});
form.addEventListener("submit", (event) => event.preventDefault());

function chosenNow() {
  return Object.fromEntries([...form.querySelectorAll("select")].map((select) => [select.name, select.value]));
}

for (const button of steps.querySelectorAll("button"))
  button.addEventListener("click", () => step(Number(button.dataset.step)));

function step(by) {
  const values = stepping[by < 0 ? 0 : 1];
  if (values) go(values);
}

document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (dialog.open) {
    event.preventDefault();
    next(by);
  } else if (!event.target.closest("select, input") && stepping.length) {
    event.preventDefault();
    step(by);
  }
});

// One picture, large, with its columns.
let open = null;

function large(address) {
  const id = address.get("picture");
  const picture = id ? shown.find((p) => p.cell === id && (known.results.length < 2 || !address.get("result") || p.result === address.get("result"))) ?? pictureAt(address) : null;
  if (!picture) {
    open = null;
    if (dialog.open) dialog.close();
    return;
  }
  const at = shown.indexOf(picture);
  back.disabled = at < 1;
  on.disabled = at < 0 || at === shown.length - 1;
  if (open?.key === picture.key && dialog.open) return;
  open = picture;
  document.getElementById("large-title").textContent = titleOf(picture);
  const frame = dialog.querySelector(".frame");
  frame.classList.remove("broken");
  const image = frame.querySelector("img");
  image.src = `picture/${picture.file}.png`;
  image.alt = `${titleOf(picture)}, seed ${picture.seed}, ${picture.model}, ${picture.attribute}: ${picture.prompt}`;
  dialog.querySelector(".measures").replaceChildren(...[barOf(picture), numbersOf(picture)].filter(Boolean));
  const beside = { result: known.results.length > 1 ? picture.result : "", model: picture.model, attribute: picture.attribute, prompt: picture.prompt, seed: picture.seed, compare: EDITS.has(picture.control) ? "edits" : "" };
  const finding = findingOf(picture);
  dialog.querySelector(".links").replaceChildren(
    element("a", { href: addressOf(beside) }, "Same prompt and seed, side by side"),
    ...(finding ? [element("a", { href: finding }, "Finding in the report")] : []),
  );
  const list = dialog.querySelector("dl");
  list.replaceChildren();
  if (!dialog.open) dialog.showModal();
  columnsOf(picture).then((columns) => open === picture && list.replaceChildren(...columns.flatMap(columnOf)));
}

async function columnsOf(picture) {
  if (known.details) return Object.entries(known.details[picture.file] ?? {});
  try {
    const answer = await fetch(`details/${picture.file}.json`);
    return answer.ok ? Object.entries(await answer.json()) : [["not known", (await answer.text()).trim()]];
  } catch {
    return [["not known", "the server does not answer; is loco-sweep view still running?"]];
  }
}

function columnOf([name, value]) {
  return [element("dt", {}, name), element("dd", { class: name.endsWith("_id") ? "id" : null }, value)];
}

function next(by) {
  const picture = shown[shown.indexOf(open) + by];
  if (shown.includes(open) && picture) go({ ...valuesNow(), picture: picture.cell, ...(known.results.length > 1 ? { result: picture.result } : {}) }, { replace: true });
}

for (const button of [back, on]) button.addEventListener("click", () => next(Number(button.dataset.go)));
dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => {
  const left = open;
  open = null;
  if (addressNow().get("picture")) go(valuesNow(["picture"]));
  if (left) cards.get(left.key)?.querySelector("a").focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("pictures").focus();
});
addEventListener("hashchange", (event) => {
  render();
  const [before, now] = [event.oldURL, event.newURL].map((url) => new URLSearchParams(new URL(url).hash.slice(1)).get("page"));
  if (before === now) return;
  scrollTo(0, 0);
  document.getElementById("pictures").focus({ preventScroll: true });
});
// From here on a cookie stands for the token, which no history need remember.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

// While a sweep runs, new pictures come in; what is shown keeps its place. A server that has nothing new is asked less
// and less often.
const SOONEST = 4000;
const LATEST = 60000;
let wait = SOONEST;
let lost = ""; // Why the server cannot be asked, if it cannot.

async function look() {
  const known_parts = [...known.parts.keys()].map((file) => file.slice(0, 12)).join(".");
  const query = known.version ? `?${new URLSearchParams({ version: known.version, have: known_parts })}` : "";
  const answer = await fetch(`index.json${query}`);
  if (answer.status === 204) return false;
  if (!answer.ok) throw new Error((await answer.text()).trim());
  learn(await answer.json());
  render();
  return true;
}

async function watch() {
  let said = "";
  try {
    wait = (await look()) ? SOONEST : Math.min(1.5 * wait, LATEST);
  } catch (error) {
    wait = Math.min(1.5 * wait, LATEST);
    said = error instanceof TypeError ? "The server does not answer; is loco-sweep view still running?" : error.message;
    if (!known.version) heading.textContent = "The pictures cannot be listed.";
  }
  if (said !== lost) {
    lost = said;
    problems();
  }
  setTimeout(() => (document.hidden ? addEventListener("visibilitychange", watch, { once: true }) : watch()), wait);
}

const bundled = document.getElementById("index");
if (bundled) {
  learn(JSON.parse(bundled.textContent));
  render();
} else {
  watch();
}
