"use strict";

// What an address shows: fields of the form, a heading, and sections of pictures.
const PAGE_SIZE = 200;

const FILTERS = [
  { name: "result", label: "Results", of: resultOf, several: true },
  { name: "model", label: "Model", of: (p) => p.model },
  { name: "attribute", label: "Attribute", of: (p) => p.attribute },
  { name: "control", label: "Control", of: (p) => p.control, words: controlWords, order: () => known.controls },
  { name: "size", label: "Window size", of: (p) => p.window_size },
  { name: "start", label: "Window start", of: (p) => p.window_start },
  { name: "seed", label: "Seed", of: (p) => p.seed },
  { name: "picked", label: "Picked window", of: (p) => (p.picked ? "yes" : null), some: true },
  { name: "intervention", label: "Intervention", of: (p) => p.intervention, several: true },
  { name: "edit", label: "Edit", of: (p) => p.edit_id, some: true },
  { name: "role", label: "Prompt role", of: (p) => p.prompt_role, order: () => ROLES, some: true },
];
const SORTS = [["", "Model, attribute, prompt"], ["largest", "Effect, largest first"], ["smallest", "Effect, smallest first"]];
const COMPARED = [["", "Windows"], ["models", "Models"], ["edits", "Edits"], ["results", "Results"]];
const STEPS = {
  "": ["result", "model", "attribute", "prompt", "seed"],
  models: ["result", "attribute", "prompt", "seed"],
  edits: ["result", "model", "attribute", "role", "prompt", "seed"],
  results: ["model", "attribute", "prompt", "seed"],
};
const PROMPT = { name: "prompt", label: "Prompt", of: (p) => p.prompt };
const FIELDS = new Map([...FILTERS, PROMPT].map((field) => [field.name, field]));

function optionsOf(field, values, pictures) {
  const order = field.order?.();
  const sorted = order ? [...values].sort((a, b) => order.indexOf(a) - order.indexOf(b)) : values;
  return sorted.map((value) => {
    if (field.name === "edit") return [String(value), `${editOf(pictures.find((p) => p.edit_id === value))} (${value.slice(0, 12)})`];
    return [String(value), field.words ? field.words(value) : String(value)];
  });
}

// All pictures that the filters of an address leave, a page of them.
function allPictures(address) {
  const chosen = new Map(FILTERS.filter(({ name }) => address.get(name)).map((field) => [field.name, address.get(field.name)]));
  const bound = (name) => (address.get(name) && Number.isFinite(Number(address.get(name))) ? Number(address.get(name)) : null);
  const [from, to] = [bound("from"), bound("to")];
  const within = (p) =>
    (from === null && to === null) || (p.effect !== null && p.effect >= (from ?? -Infinity) && p.effect <= (to ?? Infinity));
  const fails = (p) => {
    let failed = "";
    for (const [name, value] of chosen)
      if (String(FIELDS.get(name).of(p) ?? "") !== value) {
        if (failed) return null;
        failed = name;
      }
    return within(p) ? failed : null;
  };
  // Which one filter a picture fails, if it fails one alone: that filter offers it.
  const failed = known.pictures.map(fails);
  const shown = known.pictures.filter((_, i) => failed[i] === "");
  const fields = [];
  for (const field of FILTERS) {
    const open = known.pictures.filter((_, i) => failed[i] === "" || failed[i] === field.name);
    const values = offered(open, field.of);
    const value = chosen.get(field.name) ?? "";
    if (!value && (values.length < (field.several ? 2 : 1)) && (field.several || field.some)) continue;
    const options = optionsOf(field, values, open);
    if (value && !options.some(([other]) => other === value)) options.push([value, value]);
    fields.push({ ...field, chosen: value, set: true, options: [["", "All"], ...options] });
  }
  if (known.pictures.some((p) => p.effect !== null)) {
    fields.push({ name: "from", label: "Effect from", number: true, chosen: address.get("from") ?? "", set: true });
    fields.push({ name: "to", label: "Effect to", number: true, chosen: address.get("to") ?? "", set: true });
    const sort = SORTS.some(([value]) => value === address.get("sort")) ? address.get("sort") : "";
    fields.push({ name: "sort", label: "Order", chosen: sort, set: true, options: SORTS });
    const sign = { largest: -1, smallest: 1 }[sort];
    if (sign) shown.sort((a, b) => (a.effect === null) - (b.effect === null) || sign * (a.effect - b.effect));
  }
  const pages = Math.max(1, Math.ceil(shown.length / PAGE_SIZE));
  const page = Math.min(Math.max(1, Math.trunc(Number(address.get("page"))) || 1), pages);
  const first = (page - 1) * PAGE_SIZE;
  const pictures = shown.slice(first, first + PAGE_SIZE);
  const count = `${shown.length.toLocaleString("en")} picture${shown.length === 1 ? "" : "s"}`;
  const last = (first + pictures.length).toLocaleString("en");
  const several = new Set(["result", "model", "attribute", "seed", "prompt", "intervention"].filter((name) => !chosen.has(name)));
  if (known.results.length < 2) several.delete("result");
  if (!fields.some(({ name }) => name === "intervention")) several.delete("intervention");
  return {
    fields,
    page,
    pages,
    heading: pages > 1 ? `${(first + 1).toLocaleString("en")}-${last} of ${count}` : count,
    filtered: fields.some((field) => field.chosen !== ""),
    sections: [{ title: "", pictures, several }],
  };
}

// All of one prompt and seed: clean, window and donor, then every window; or models, edits, or results.
function sideBySide(address) {
  const open = address.get("picture") ? pictureAt(address) : null;
  const edits = known.pictures.filter((p) => EDITS.has(p.control));
  const swaps = known.pictures.filter((p) => !EDITS.has(p.control));
  const possible = COMPARED.filter(([value]) => {
    if (value === "models") return offered(swaps, (p) => p.model).length > 1;
    if (value === "results") return known.results.length > 1 && swaps.length;
    return value === "edits" ? edits.length : swaps.length;
  });
  const asked = address.get("compare") ?? (open && EDITS.has(open.control) ? "edits" : "");
  const compared = possible.some(([value]) => value === asked) ? asked : possible[0][0];
  let rows = compared === "edits" ? edits : swaps;
  const fields = [];
  const chosen = {};
  // What is not asked for is of an attribute that was localized, if there is one.
  const asks = (p) => ["result", "model", "attribute"].every((name) => !address.get(name) || FIELDS.get(name).of(p) === address.get(name));
  const best = rows.find((p) => foundOf(p)?.outcome === "localized" && asks(p));
  for (const name of STEPS[compared]) {
    const field = FIELDS.get(name);
    const options = optionsOf(field, offered(rows, field.of), rows);
    if (!options.length || (name === "result" && known.results.length < 2)) continue;
    const likely = name === "model" || name === "attribute" ? best : undefined;
    const wanted = [address.get(name), open && field.of(open), likely && field.of(likely)].filter((one) => one !== null && one !== undefined);
    const value = wanted.map(String).find((one) => options.some(([other]) => other === one)) ?? options[0][0];
    chosen[name] = value;
    fields.push({ ...field, chosen: value, options });
    rows = rows.filter((p) => String(field.of(p)) === value);
  }
  if (possible.length > 1) fields.unshift({ name: "compare", label: "Compare", chosen: compared, options: possible });
  const sizes = offered(rows, (p) => p.window_size);
  let size = "";
  if (compared === "" && sizes.length > 1) {
    size = sizes.some((value) => String(value) === address.get("size")) ? address.get("size") : "";
    fields.push({ name: "size", label: "Window size", chosen: size, options: [["", "All"], ...sizes.map((value) => [String(value), String(value)])] });
  }
  const sections = compared === "" ? windowSections(rows, size) : compared === "edits" ? editSections(rows) : rowSections(rows, compared);
  return { fields, chosen, compared, heading: chosen.prompt, sections };
}

// Clean, the window that was picked, and donor. Where none was picked, the best one; where none is known, the one with
// the largest effect here.
function triple(rows) {
  const first = (test) => rows.find(test);
  const found = foundOf(rows[0]);
  const start = found?.window_start ?? found?.best_start;
  const size = found?.window_start == null ? found?.best_size : found.window_size;
  const windows = rows.filter((p) => p.control === "window" && isLocalized(p));
  const scored = windows.filter((p) => p.effect !== null);
  const largest = scored.length ? scored.reduce((a, b) => (b.effect > a.effect ? b : a)) : windows[0];
  const window = windows.find((p) => p.window_start === start && p.window_size === size);
  const tags = new Map();
  if (window && !window.picked) tags.set(window, "best");
  if (!window && largest) tags.set(largest, "largest effect");
  const pictures = [first((p) => p.control === "clean"), window ?? largest, first((p) => p.control === "donor")];
  return { pictures: pictures.filter((p) => p !== undefined), tags, verdict: verdictOf(found), found };
}

function windowSections(rows, size) {
  const { pictures, tags, verdict } = triple(rows);
  const sections = [{ title: verdict, kind: "triple", pictures, tags, report: pictures[0] }];
  const interventions = offered(rows.filter((p) => p.control === "window"), (p) => p.intervention);
  for (const intervention of interventions.length ? interventions : [null])
    for (const each of offered(rows.filter((p) => p.control === "window" && p.intervention === intervention), (p) => p.window_size)) {
      if (size && String(each) !== size) continue;
      const title = `Windows of ${each === 1 ? "1 site" : `${each} sites`}${interventions.length > 1 ? `: ${intervention}` : ""}`;
      sections.push({ title, kind: "many", pictures: unique(rows.filter((p) => p.control === "window" && p.intervention === intervention && p.window_size === each)) });
    }
  const controls = unique(rows.filter((p) => !["clean", "window", "donor"].includes(p.control)));
  const kept = controls.filter((p) => !size || p.window_size === null || String(p.window_size) === size);
  if (kept.length) sections.push({ title: "Controls", kind: "many", pictures: kept, several: new Set(interventions.length > 1 ? ["intervention"] : []) });
  return sections;
}

function rowSections(rows, compared) {
  const of = compared === "models" ? (p) => p.model : resultOf;
  return offered(rows, of).map((value) => {
    const { pictures, tags, verdict } = triple(rows.filter((p) => of(p) === value));
    return { title: `${value}: ${verdict}`, kind: "triple compared", pictures, tags, report: pictures[0] };
  });
}

// Before the edit, what was chosen, and the others; alike ones stand together.
function editSections(rows) {
  const place = (p) => [p.control === "before" ? 0 : isChosen(p) ? 1 : 2, p.control === "before" ? "" : editOf(p)];
  const ordered = unique(rows)
    .map((p) => [place(p), p])
    .sort(([[a, one]], [[b, other]]) => a - b || (one < other ? -1 : one > other ? 1 : 0))
    .map(([, p]) => p);
  const tags = new Map(ordered.filter(isChosen).map((p) => [p, "chosen"]));
  return [{ title: verdictOf(foundOf(rows[0])), kind: "edits", pictures: ordered, tags, report: rows[0] }];
}

// Slices of a block carry clean and donor pictures of their own, which are the same ones.
function unique(pictures) {
  const seen = new Set();
  return pictures.filter((p) => {
    const name = `${p.cell} ${p.control} ${p.window_start} ${p.window_size}`;
    return !seen.has(name) && seen.add(name);
  });
}

function pictureAt(address) {
  const found = known.pictures.filter((p) => p.cell === address.get("picture"));
  return found.find((p) => p.result === address.get("result")) ?? found[0] ?? null;
}
