"use strict";

// What is known: the results, and one object per picture and label, in the order of pages.
const known = { version: "", results: [], parts: new Map(), rows: new Map(), pictures: [], controls: [], details: null };

const ROLES = ["target", "paraphrase", "donor", "neighbour", "unrelated"];
const EDITS = new Set(["before", "edited"]);
const BETWEEN = "\u001f"; // Stands in no name that a person writes.

// Takes what a server answers, or what a bundle holds: the parts that were not known, and which there are now.
function learn(index) {
  for (const part of index.parts) known.parts.set(part.file, part);
  known.version = index.version;
  known.details = index.details;
  known.results = index.results.map((result, number) => ({
    ...result,
    number,
    full: new Map(result.full.map(([model, attribute, drop]) => [model + BETWEEN + attribute, drop])),
    found: new Map(result.localizations.map((row) => [row.model + BETWEEN + row.attribute, row])),
  }));
  const rows = new Map();
  for (const result of known.results)
    for (const file of result.parts) {
      const part = known.parts.get(file);
      if (!part) continue;
      const key = `${result.number}/${file}`;
      rows.set(key, known.rows.get(key) ?? picturesOf(part, result.number));
    }
  known.rows = rows;
  const there = new Set(known.results.flatMap((result) => result.parts));
  for (const file of [...known.parts.keys()]) if (!there.has(file)) known.parts.delete(file);
  known.pictures = [...rows.values()].flat();
  for (const picture of known.pictures) measure(picture);
  known.pictures.sort(inOrder);
  const ranks = new Map(known.pictures.map((picture) => [picture.control, picture.rank]));
  known.controls = [...ranks.keys()].sort((a, b) => ranks.get(a) - ranks.get(b));
}

function picturesOf(part, number) {
  const read = {};
  for (const [name, column] of Object.entries(part.columns))
    read[name] = Array.isArray(column) ? (i) => column[i] : (i) => column.values[column.codes[i]] ?? null;
  const made = [];
  for (let i = 0; i < part.rows; i++) {
    const picture = { number, key: `${number}/${part.file}/${i}`, file: `${part.file}/${read.row(i)}` };
    for (const name of Object.keys(read)) picture[name] = read[name](i);
    made.push(picture);
  }
  return made;
}

// What depends on all pictures of an attribute: the effect is the drop of the margin as a share of the mean drop of its
// donor pictures, so that the mean over the pictures of a window is the window's effect.
function measure(picture) {
  const result = known.results[picture.number];
  const block = picture.model + BETWEEN + picture.attribute;
  const full = result.full.get(block);
  const found = result.found.get(block);
  picture.result = result.name;
  picture.effect = full === undefined || picture.drop === null ? null : picture.drop / full;
  picture.threshold = found?.threshold ?? null;
  picture.picked =
    picture.control === "window" && isLocalized(picture) && found?.window_start != null &&
    picture.window_start === found.window_start && picture.window_size === found.window_size;
}

// Of several sets of options, localizations are about the first.
function isLocalized(picture) {
  const { intervention } = known.results[picture.number];
  return picture.intervention === null || picture.intervention === intervention;
}

const SORTED_BY = [
  "number", "model", "attribute", "prompt", "seed", "rank", "intervention", "window_size", "window_start", "edit_id", "key",
];

function inOrder(one, other) {
  for (const name of SORTED_BY) {
    const a = one[name];
    const b = other[name];
    if (a === b) continue;
    if (a === null) return -1;
    if (b === null) return 1;
    return a < b ? -1 : 1;
  }
  return 0;
}

function foundOf(picture) {
  return known.results[picture.number].found.get(picture.model + BETWEEN + picture.attribute);
}

const resultOf = (picture) => picture.result;

function offered(pictures, of) {
  const values = [...new Set(pictures.map(of))].filter((value) => value !== null && value !== undefined && value !== "");
  // Results come in the order in which they were given.
  if (of === resultOf) return known.results.map((result) => result.name).filter((name) => values.includes(name));
  return values.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

// Words.
const CONTROL_WORDS = { all_sites: "all sites", before: "before the edit", window: "window", edited: "edited" };

function controlWords(control) {
  return Object.hasOwn(CONTROL_WORDS, control) ? CONTROL_WORDS[control] : control;
}

function sites(start, size) {
  return size === 1 ? `site ${start}` : `sites ${start}-${start + size - 1}`;
}

function titleOf(picture) {
  const { control, window_start: start, window_size: size, site_indices: indices } = picture;
  if (control === "window" && start !== null) return sites(start, size);
  if (control === "complement" && start !== null) return `all but ${sites(start, size)}`;
  if (control === "random" && indices?.length) return `random: ${indices.join(", ")}`;
  if (control === "edited") return editOf(picture);
  return controlWords(control);
}

function editOf(picture) {
  const edits = known.results[picture.number].edits;
  const id = picture.edit_id ?? "";
  return Object.hasOwn(edits, id) ? edits[id][0] : `edit ${id.slice(0, 12)}`;
}

function isChosen(picture) {
  const edits = known.results[picture.number].edits;
  return picture.edit_id !== null && Object.hasOwn(edits, picture.edit_id) && edits[picture.edit_id][1];
}

function decimal(value, digits = 2) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text;
}

// What a localizer said of an attribute of a model, in a line.
function verdictOf(found) {
  if (!found) return "not localized yet";
  const outcome = found.outcome.replaceAll("_", " ");
  const start = found.window_start ?? found.best_start;
  if (start === null) return outcome;
  const interval = found.ci_low === null || found.ci_high === null ? "" : ` [${decimal(found.ci_low)}, ${decimal(found.ci_high)}]`;
  const effect = found.effect === null ? "" : `, effect ${decimal(found.effect)}${interval}`;
  const size = found.window_start === null ? found.best_size : found.window_size;
  return `${outcome}: ${found.window_start === null ? "best window " : ""}${sites(start, size)}${effect}`;
}
