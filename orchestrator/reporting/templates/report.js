"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const ink = getComputedStyle(document.body).getPropertyValue("--ink").trim();
  const line = getComputedStyle(document.body).getPropertyValue("--line").trim();
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink, family: "system-ui, sans-serif"},
    margin: {l: 50, r: 10, t: 10, b: 45}, hovermode: "closest", ...more,
  });
  // Plotly reads texts as HTML of a kind: what stands in a name is to be seen as it stands.
  const literal = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const config = {typesetMath: false, displaylogo: false, responsive: true, displayModeBar: false};
  const colorscale = [[0, "#fdf6ec"], [0.4, "#fdba74"], [0.7, "#ea580c"], [1, "#431407"]];
  const percent = (share) => share[3] ? `${Math.round(100 * share[0])} %` : "–";
  const interval = (share) =>
    share[3] ? `${percent(share)} [${Math.round(100 * share[1])}, ${Math.round(100 * share[2])}]` : "–";

  // Tabs: arrow keys move between them, the address remembers which is open.
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const drawn = new Set();
  const drawers = {heatmap: drawHeatmap, edits: drawEdits};
  function open(tab) {
    for (const each of tabs) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      byId(each.getAttribute("aria-controls")).hidden = !chosen;
    }
    const key = tab.getAttribute("aria-controls");
    if (drawers[key] && !drawn.has(key)) { drawn.add(key); drawers[key](); }
    history.replaceState(null, "", `#${key}`);
  }
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const to = {ArrowRight: number === last ? 0 : number + 1, ArrowLeft: number ? number - 1 : last, Home: 0, End: last}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tabs[to].focus();
      open(tabs[to]);
    });
  });

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
    dialog.showModal();
  });
  dialog.querySelector("button").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  function options(select, values) {
    select.replaceChildren(...values.map(([value, text]) => new Option(text, value)));
  }

  function drawHeatmap() {
    const models = Object.keys(data.effects);
    if (!models.length) { byId("heatmap-plot").textContent = "No effects yet."; return; }
    const [model, size] = [byId("heatmap-model"), byId("heatmap-size")];
    options(model, models.map((name) => [name, name]));
    const sizes = () => {
      const all = [...new Set(data.effects[model.value].windows.map((window) => window[1]))];
      options(size, all.map((value) => [value, value]));
      // The size that was picked most often is the one to look at first.
      const picks = data.picked.filter((pick) => pick[0] === model.value).map((pick) => pick[3]);
      const count = (value) => picks.filter((pick) => pick === value).length;
      size.value = all.reduce((best, value) => (count(value) > count(best) ? value : best), all[0]);
    };
    const draw = () => {
      const grid = data.effects[model.value], wanted = Number(size.value);
      const at = grid.windows.map((window, i) => (window[1] === wanted ? i : -1)).filter((i) => i >= 0);
      const take = (rows) => rows.map((row) => at.map((i) => row[i]));
      const [z, low, high] = [take(grid.effect), take(grid.ci_low), take(grid.ci_high)];
      const x = at.map((i) => { const [start, s] = grid.windows[i]; return s === 1 ? `${start}` : `${start}–${start + s - 1}`; });
      const dots = data.picked
        .filter((pick) => pick[0] === model.value && pick[3] === wanted)
        .map((pick) => [x[at.findIndex((i) => grid.windows[i][0] === pick[2])], literal(pick[1])]);
      Plotly.react(byId("heatmap-plot"), [
        {
          type: "heatmap", x, y: grid.attributes.map(literal), z, zmin: 0, zmax: 1, colorscale, xgap: 1, ygap: 1,
          customdata: z.map((row, r) => row.map((_, c) => [low[r][c], high[r][c]])), colorbar: {title: {text: "effect"}, thickness: 12},
          hovertemplate: "%{y}<br>sites %{x}<br>effect %{z:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>",
        },
        {
          type: "scatter", mode: "markers", x: dots.map((dot) => dot[0]), y: dots.map((dot) => dot[1]), hoverinfo: "skip",
          marker: {color: "#ffffff", size: 9, line: {color: "#1c1917", width: 1.5}}, showlegend: false,
        },
      ], layout({
        height: Math.max(320, 90 + 22 * grid.attributes.length),
        margin: {l: 10, r: 10, t: 10, b: 50},
        xaxis: {type: "category", title: {text: "sites"}, automargin: true},
        yaxis: {type: "category", autorange: "reversed", automargin: true},
      }), config);
    };
    model.addEventListener("change", () => { sizes(); draw(); });
    size.addEventListener("change", draw);
    sizes();
    draw();
  }

  function drawEdits() {
    const shown = byId("edits-shown");
    if (!shown) return;
    const blocks = [...new Set(data.edits.map((edit) => `${edit.model} · ${edit.attribute}`))];
    options(shown, [["", "all chosen edits and their baselines"], ...blocks.map((block) => [block, block])]);
    const draw = () => {
      const edits = data.edits.filter((edit) => !shown.value || `${edit.model} · ${edit.attribute}` === shown.value);
      drawPlane(edits);
      drawCurve(edits);
      fillTable(shown.value ? edits : edits.filter((edit) => edit.chosen));
    };
    shown.addEventListener("change", draw);
    draw();
  }

  function drawPlane(edits) {
    // Published methods by name, each with a sign of its own.
    const methods = [...new Set(data.edits.filter((edit) => edit.scope === "method").map((edit) => edit.name))].sort();
    const groups = Object.entries(data.scopes).flatMap(([scope, colour]) => scope === "method"
      ? methods.map((editor, number) => [scope, colour, editor, ["diamond", "square", "triangle-up", "cross"][number % 4]])
      : [[scope, colour, null, "circle"]]);
    const traces = groups.flatMap(([scope, colour, editor, sign]) => {
      const mine = edits.filter((edit) => edit.scope === scope && (!editor || edit.name === editor) && edit.neighbours_kept[3]);
      if (!mine.length) return [];
      return [{
        type: "scatter", mode: "markers", name: literal(editor ?? scope.replace("_", " ")), x: mine.map((edit) => edit.flipped[0]),
        y: mine.map((edit) => edit.neighbours_kept[0]),
        text: mine.map((edit) => `${literal(edit.model)}, ${literal(edit.attribute)}<br>${literal(edit.label)}<br>flipped ${interval(edit.flipped)}<br>neighbours kept ${interval(edit.neighbours_kept)}`),
        hovertemplate: "%{text}<extra></extra>",
        marker: {color: colour, opacity: 0.85, size: mine.map((edit) => (edit.chosen ? 15 : 8)),
          symbol: mine.map((edit) => (edit.chosen && !editor ? "star" : sign))},
      }];
    });
    const axis = (title) => ({title: {text: title}, range: [-0.04, 1.04], tickformat: ".0%", gridcolor: line, zeroline: false});
    Plotly.react(byId("plane-plot"), traces, layout({
      height: 400, xaxis: axis("flipped to the donor's class"), yaxis: axis("neighbours kept"),
      legend: {orientation: "h", y: -0.25}, margin: {l: 60, r: 10, t: 10, b: 45},
    }), config);
  }

  // Shares pooled over attributes, by strength, of LocoEdit's paired edits; the paper's absolute lambda is marked.
  function drawCurve(edits) {
    const curves = new Map();
    for (const edit of edits) {
      if (edit.editor !== "loco_edit" || !edit.lambda || !["localized", "by_hand", "all_sites"].includes(edit.scope)) continue;
      const place = edit.scope === "by_hand" ? edit.localization : edit.scope.replace("_", " ");
      const key = `${place}, ${edit.tokens}`;
      if (!curves.has(key)) curves.set(key, new Map());
      const points = curves.get(key);
      if (!points.has(edit.lambda)) points.set(edit.lambda, []);
      points.get(edit.lambda).push(edit);
    }
    const pooled = (list, name) => {
      const [hits, of] = list.reduce(([h, n], edit) => [h + edit[name][0] * edit[name][3], n + edit[name][3]], [0, 0]);
      return of ? hits / of : null;
    };
    const colours = ["#c2410c", "#0369a1", "#16a34a", "#7c3aed", "#ca8a04", "#475569"];
    const traces = [];
    [...curves].forEach(([key, points], number) => {
      const lambdas = [...points.keys()].sort((a, b) => a - b);
      for (const [name, dash, said] of [["flipped", "solid", "flipped"], ["neighbours_kept", "dot", "neighbours kept"]]) {
        traces.push({
          type: "scatter", mode: "lines+markers", name: literal(`${key}: ${said}`), x: lambdas, line: {dash, color: colours[number % 6]},
          y: lambdas.map((value) => pooled(points.get(value), name)),
          marker: {size: 7},
          text: lambdas.map(() => literal(key)),
          hovertemplate: `%{text}<br>λ %{x}: %{y:.0%} ${said}<extra></extra>`,
        });
      }
    });
    if (!traces.length) { byId("curve-plot").textContent = "No paired LocoEdit edits here."; return; }
    const scaled = edits.find((edit) => edit.lambda && edit.lambda_absolute);
    const paper = scaled && 0.01 * scaled.lambda / scaled.lambda_absolute;
    const mark = {
      shapes: [{type: "line", x0: paper, x1: paper, yref: "paper", y0: 0, y1: 1, line: {color: ink, width: 1, dash: "dash"}}],
      annotations: [{x: Math.log10(paper), yref: "paper", y: 1.06, showarrow: false, text: "the paper's λ"}],
    };
    Plotly.react(byId("curve-plot"), traces, layout({
      ...(paper ? mark : {}),
      height: 480, xaxis: {type: "log", title: {text: "λ as a share of the keys' mean squared norm"}, gridcolor: line},
      yaxis: {range: [-0.04, 1.04], tickformat: ".0%", gridcolor: line, zeroline: false},
      legend: {orientation: "h", y: -0.25}, margin: {l: 60, r: 10, t: 35, b: 45},
    }), config);
  }

  function fillTable(edits) {
    const titles = ["attribute", "model", "edit", "scope", "flipped", "reworded", "neighbours", "unrelated", "content"];
    const head = document.createElement("tr");
    head.append(...titles.map((title) => Object.assign(document.createElement("th"), {textContent: title, scope: "col"})));
    const rows = edits.map((edit) => {
      const row = document.createElement("tr");
      if (edit.chosen) row.className = "chosen";
      const texts = [edit.attribute, edit.model, edit.label, edit.scope.replace("_", " "),
        ...["flipped", "paraphrased", "neighbours_kept", "unrelated_kept", "content_kept"].map((name) => interval(edit[name]))];
      row.append(...texts.map((text) => Object.assign(document.createElement("td"), {textContent: text})));
      return row;
    });
    byId("edits-table").replaceChildren(head, ...rows);
  }

  function table(name) {
    if (name === "localizations") return data.localizations;
    if (name === "effects") {
      const columns = ["model", "attribute", "window_start", "window_size", "effect", "ci_low", "ci_high"];
      const rows = Object.entries(data.effects).flatMap(([model, grid]) => grid.attributes.flatMap((attribute, r) =>
        grid.windows.map(([start, size], c) => [model, attribute, start, size, grid.effect[r][c], grid.ci_low[r][c], grid.ci_high[r][c]])));
      return {columns, rows};
    }
    const plain = ["edit_id", "model", "attribute", "editor", "targets", "scope", "window_start", "window_size", "tokens", "lambda", "lambda_absolute", "neurons", "guidance_half", "norm", "chosen", "localization"];
    const shares = ["flipped", "paraphrased", "neighbours_kept", "unrelated_kept", "content_kept", "ceiling"];
    const columns = [...plain, ...shares.flatMap((share) => [share, `${share}_low`, `${share}_high`, `${share}_of`])];
    return {columns, rows: data.edits.map((edit) => [...plain.map((key) => edit[key]), ...shares.flatMap((share) => edit[share])])};
  }

  function csv({columns, rows}) {
    const cell = (value) => {
      let text = value === null || value === undefined ? "" : String(value);
      // A spreadsheet would run a text that begins like a formula, of full width too; numbers are what they are.
      if (typeof value === "string" && /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text)) text = `'${text}`;
      // Also what other separators than the comma would cut.
      return /[",;\t\r\n']/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  function tex({columns, rows}) {
    const special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"};
    const cell = (value) => {
      const number = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : value;
      const text = value === null || value === undefined ? "--" : String(number);
      return text.replace(/[\\~^&%$#_{}]/g, (character) => special[character] ?? `\\${character}`);
    };
    // After a line's end a bracket would be taken for its option.
    const body = [columns, ...rows].map((row) => `${row.map(cell).join(" & ").replace(/^\s*\[/, "{[}")} \\\\`);
    return ["% needs \\usepackage{booktabs}", `\\begin{tabular}{${"l".repeat(columns.length)}}`, "\\toprule", body[0], "\\midrule",
      ...body.slice(1), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  }

  for (const button of document.querySelectorAll("[data-table]")) {
    button.addEventListener("click", () => {
      const {table: name, format} = button.dataset;
      const text = (format === "csv" ? csv : tex)(table(name));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], {type: "text/plain"}));
      link.download = `${data.name}-${name}.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  const wanted = tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash);
  if (wanted) open(wanted);
})();
