// Tables as files, for spreadsheets and papers.
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
