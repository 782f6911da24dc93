"use strict";

// The page of `charlm compare`; the form of the data is in charlm/training/figures.py.

const data = readData();
const colours = new Map(data.backbones.map((backbone, index) => [backbone, index % 8]));
const panel = (id) => document.getElementById(id);

/** Return a sample as it can be read: line ends and tabs as they are, other controls as symbols. */
function readable(text) {
  return Array.from(text, (sign) => ("\n\t".includes(sign) ? sign : visible(sign))).join("");
}

/** Return the length of the context that counts, which was measured up to some most. */
function memory(row) {
  if (row.memory_most === null) return "–";
  return row.memory === null ? `> ${number(row.memory_most)}` : number(row.memory);
}

/** Return over how many characters a gradient halves, if it was measured and it does. */
function halfDistance(row) {
  if (row.half_distance_most === null) return "–";
  return row.half_distance === null ? "never" : number(row.half_distance, 1);
}

/** Add a chart to a panel, or why there is none. */
function addChart(id, options, why) {
  panel(id).append(options.curves.length
    ? chart(options)
    : element("p", { class: "left-out" }, why));
}

function showHeader() {
  const { text, common, seeds } = data;
  const budget = ["minutes", "steps", "epochs"].find((unit) => common[unit] !== undefined);
  const names = data.backbones.map(visibleText).join(", ");
  panel("title").textContent = `Which backbone: ${names}?`;
  const unit = common[budget] === 1 ? budget.slice(0, -1) : budget;
  panel("summary").textContent = `${short(common[budget])} ${unit} for each training, `
    + `${seeds} ${seeds === 1 ? "seed" : "seeds"} for each backbone, ${common.precision}`;
  panel("source").textContent = `${text.files.map(visibleText).join(", ")}: `
    + `${number(text.characters)} characters, ${number(text.symbols)} symbols`;
}

function showVerdict() {
  const [first, ...others] = data.verdict.sentences;
  const figures = [
    ["loss, nats per character", (row) => number(row.nats, 4)],
    ["its spread over the seeds", (row) => number(row.spread, 4)],
    ["loss, bits per character", (row) => number(row.bits, 4)],
    ["layers × units", (row) => `${row.num_layers} × ${row.hidden_size}`],
    ["parameters", (row) => number(row.parameters)],
    ["characters read in training", (row) => number(row.characters)],
    ["characters a second, training", (row) => number(row.training_chars_per_second)],
    ["characters a second, generating", (row) => number(row.generating_chars_per_second)],
    ["characters of context that count", memory],
    ["gradient half-distance, characters", halfDistance],
    ["runs that diverged", (row) => number(row.diverged)],
  ];
  const shown = figures.filter(([name]) => !(name === "runs that diverged"
    && data.table.every((row) => row.diverged === 0))
    && !(name === "its spread over the seeds" && data.seeds === 1));
  const names = data.table.map((row) => visibleText(row.backbone));
  const columns = [{ name: "" }, ...names.map((name) => ({ name, number: true }))];
  const rows = shown.map(([name, show]) => [name, ...data.table.map(show)]);
  panel("verdict").append(
    element("p", { class: "figure-line" }, element("strong", {}, first)),
    element("p", {}, others.join(" ")),
    table({
      caption: "Means over the seeds; generating, context and gradient of the first seed",
      columns,
      rows,
    }),
  );
}

/** Show the validation losses of all trainings over minutes and over characters. */
function showCurves() {
  const runs = data.runs.filter((run) => run.curve);
  for (const [unit, title, label] of [
    ["minutes", "Validation loss over time", "minutes"],
    ["characters", "Validation loss over text", "characters read in training"],
  ]) {
    const curves = runs.map((run) => ({
      name: `${visibleText(run.backbone)}, seed ${run.seed}`,
      x: run.curve[unit],
      y: run.curve.validation,
      colour: colours.get(run.backbone),
    }));
    const format = unit === "characters" ? (value) => `${short(value / 1e6)} M` : short;
    addChart("curves", { title, curves, x: { label, format }, y: { label: "nats per character" } },
      "No training has come to its end.");
    shortenLegend(panel("curves").lastElementChild, runs);
  }
}

/** Of all trainings of a backbone, which have one colour, leave one in the legend. */
function shortenLegend(figure, runs) {
  figure.querySelectorAll(".legend li").forEach((item, index) => {
    const { backbone } = runs[index];
    if (runs.findIndex((run) => run.backbone === backbone) !== index) item.remove();
    else item.lastChild.textContent = visibleText(backbone);
  });
}

/** Show the gradient by distance; what is below a millionth of its largest value has vanished. */
function showGradients() {
  const curves = [];
  for (const backbone of data.backbones) {
    const found = data.measured[backbone]?.gradients;
    if (!found) continue;
    for (const [which, suffix] of [["trained", ""], ["untrained", ", before training"]]) {
      const most = Math.max(...found[which]);
      curves.push({
        name: visibleText(backbone) + suffix,
        x: found.distances,
        y: found[which].map((norm) => (norm >= 1e-6 * most ? norm / most : null)),
        dashed: which === "untrained",
        colour: colours.get(backbone),
      });
    }
  }
  addChart("gradients", {
    title: "Norm of the gradient by distance",
    curves,
    x: { label: "characters back" },
    y: { label: "share of the largest", log: true },
  }, "It is measured on a text of 50 characters or more, and not for lists, whose items are read "
    + "one by one.");
}

function showMemory() {
  const curves = [];
  for (const backbone of data.backbones) {
    const found = data.measured[backbone]?.memory;
    if (!found) continue;
    curves.push({
      name: visibleText(backbone),
      x: found.contexts,
      y: found.loss.map((loss) => loss - found.full),
      error: found.error,
      colour: colours.get(backbone),
    });
  }
  addChart("memory", {
    title: "Loss with a short context, above that with all of it",
    curves,
    x: { label: "characters of context", log: true },
    y: { label: "bits per character" },
  }, "It is measured on a text of 200 characters or more, and not for lists, whose items are read "
    + "one by one.");
}

function showSamples() {
  for (const backbone of data.backbones) {
    const found = data.measured[backbone];
    if (!found) continue;
    panel("samples").append(
      element("h3", {}, visibleText(backbone)),
      element("pre", { dir: "auto" },
        element("strong", {}, readable(found.prompt)), readable(found.sample)));
  }
}

function showSettings() {
  const plain = (value) => (value === null || value === "" ? "chosen by the run" : String(value));
  const rows = Object.entries(data.common).map(([name, value]) => [name, plain(value)]);
  const own = data.backbones.map((backbone) => [
    visibleText(backbone),
    Object.entries(data.models[backbone]).filter(([name]) => name !== "backbone")
      .map(([name, value]) => `${name} ${value}`).join(", ") || "none",
  ]);
  const columns = [{ name: "setting" }, { name: "value" }];
  panel("settings").append(
    openable("All settings", () => table({ caption: "Settings of all trainings", columns, rows })),
    table({ caption: "Settings that a backbone has for itself", rows: own,
      columns: [{ name: "backbone" }, { name: "settings" }] }),
  );
}

showHeader();
showVerdict();
showCurves();
showGradients();
showMemory();
showSamples();
showSettings();
setUpTheme(panel("theme"));
setUpContents(panel("contents"));
