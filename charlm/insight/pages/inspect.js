// The page of an inspection: what colours the text, what is read out, and the seven panels.

const report = readData();
const characters = Array.from(report.text.text); // one entry a character, as Python counts them
const GATES = { i: "input gate", f: "forget gate", o: "output gate", r: "reset gate",
  z: "update gate" };
const MOST_AROUND = 40; // characters of a place that are shown in a list

const byId = (id) => document.getElementById(id);
const contentOf = (panel) => document.querySelector(`#${panel} .content`);
const given = (panel) => report[panel] !== undefined && report[panel].left_out === undefined;
const unitName = ({ layer, array, index }) => `layer ${layer}, ${array}, unit ${index}`;

// ---------------------------------------------------------------- what the text is coloured by

/**
 * Each painting has a name, levels() for the text view, and a scale: the words at the ends of the
 * colours and a note. value(place) is what the readout says of it, if anything.
 */
const paintings = new Map();
let painting = null;
let view = null;
let looked = 0;
let found = []; // places like the marked span

function surprisePainting() {
  const { bits } = report.surprise;
  const sorted = Float64Array.from(bits).sort();
  const most = Math.max(4, Math.ceil(sorted[Math.floor(0.98 * (sorted.length - 1))]));
  return {
    name: "surprise",
    levels: () => Array.from(bits, (value) => level(value / most)),
    scale: () => ({ ends: ["0 bits", `${most} bits or more`] }),
    value: () => "",
  };
}

function level(share) {
  return Math.max(-STEPS, Math.min(STEPS, Math.round(STEPS * share)));
}

/** Return the painting of a unit; valueAt(place) is its value, or null where it is not known. */
function unitPainting(unit, valueAt, note) {
  const limit = Math.max(Math.abs(unit.low), Math.abs(unit.high)) || 1;
  const signed = unit.low < 0;
  return {
    name: unitName(unit),
    levels: () => characters.map((_, place) => {
      const value = valueAt(place);
      return value === null ? null : level(value / limit);
    }),
    scale: () => ({ ends: [signed ? `−${short(limit)}` : "0", short(limit)], signed, note }),
    value: (place) => {
      const value = valueAt(place);
      return `${unitName(unit)}: ${value === null ? "not stored here" : number(value, 3)}`;
    },
  };
}

/** Return the painting of the unit that is chosen by layer, array and number. */
function anyPainting() {
  const { characters: count, arrays } = report.neurons.excerpt;
  const array = arrays[Number(byId("any-array").value)];
  const size = array.values.shape[1];
  const field = byId("any-unit");
  field.max = size - 1;
  const index = Math.max(0, Math.min(size - 1, Math.floor(Number(field.value)) || 0));
  const valueAt = (place) => (place < count ? array.values[place * size + index] : null);
  const note = count < characters.length
    ? `Single units are stored for the first ${number(count)} characters only.` : "";
  return unitPainting({ ...array, index }, valueAt, note);
}

function connectivityPainting() {
  const { values } = report.connectivity;
  const [rows, depth] = values.shape;
  return {
    name: "connectivity of the character at the cursor",
    levels: () => {
      const levels = new Array(characters.length).fill(0);
      const counted = countedFor(view.cursor);
      const most = Math.max(...counted.map(({ size }) => size));
      for (const { place, size } of counted) levels[place] = level(size / most);
      return levels;
    },
    scale: () => ({
      ends: ["did not count", "counted most"],
      note: view.cursor >= rows
        ? `It is known for the first ${number(rows)} characters.`
        : `For the character at the cursor, up to ${depth} characters back.`,
    }),
    value: () => "",
  };
}

/** Return how much each character before a place counted for it: [{place, size}], nearest first. */
function countedFor(place) {
  const { values } = report.connectivity;
  const [rows, depth] = values.shape;
  if (place >= rows) return [];
  return Array.from({ length: Math.min(depth, place) }, (_, j) =>
    ({ place: place - 1 - j, size: values[place * depth + j] }));
}

function matchesPainting() {
  return {
    name: "places like the marked span",
    levels: () => {
      const levels = new Array(characters.length).fill(0);
      const length = view.marked ? view.marked[1] - view.marked[0] : 0;
      for (const { place, similarity } of found) {
        levels.fill(Math.max(1, level(similarity)), place, place + length);
      }
      return levels;
    },
    hues: ["like", "like"],
    scale: () => ({
      ends: ["similarity 0", "1"],
      hue: "like",
      note: view.marked ? "" : "No span is marked yet.",
    }),
    value: () => "",
  };
}

function addPaintings() {
  const add = (key, one, group = byId("paint")) => {
    paintings.set(key, one);
    group.append(element("option", { value: key }, one.name));
  };
  if (given("surprise")) add("surprise", surprisePainting());
  if (given("neurons")) {
    const group = element("optgroup", { label: "units over the whole text" });
    for (const unit of report.neurons.painted) {
      add(keyOf(unit), unitPainting(unit, (place) => unit.values[place]), group);
    }
    if (group.children.length) byId("paint").append(group);
    const { arrays, characters: count } = report.neurons.excerpt;
    arrays.forEach(({ layer, array }, index) =>
      byId("any-array").append(element("option", { value: index }, `layer ${layer}, ${array}`)));
    if (arrays.length) {
      add("any", { ...anyPainting(), name: `any unit (first ${number(count)} characters)` });
    }
  }
  if (given("connectivity")) add("connectivity", connectivityPainting());
  if (given("matching")) add("matches", matchesPainting());
}

function keyOf({ layer, array, index }) {
  return `${layer}.${array}.${index}`;
}

/** Colour the text by one of the paintings. */
function paintBy(key) {
  if (!paintings.has(key)) return;
  byId("paint").value = key;
  byId("any").hidden = key !== "any";
  if (key === "any") paintings.set("any", anyPainting());
  painting = key;
  for (const button of document.querySelectorAll("button[data-paints]")) {
    button.setAttribute("aria-pressed", button.dataset.paints === key);
  }
  repaint();
}

function repaint() {
  const one = paintings.get(painting);
  if (!one) return;
  view.paint(one.levels(), one.hues);
  const { ends, signed = false, hue = "hot", note = "" } = one.scale();
  const steps = [];
  for (let step = signed ? -STEPS : 0; step <= STEPS; step++) {
    const name = step < 0 ? "cold" : hue;
    steps.push(element("span", { class: step ? `${name} w${Math.abs(step)}` : null }));
  }
  byId("scale").replaceChildren(
    element("div", { class: "ramp" }, ends[0],
      element("span", { class: "steps", "aria-hidden": "true" }, steps), ends[1]),
    element("span", {}, note));
  look(looked);
}

// ---------------------------------------------------------------- what is read out

const lines = (() => {
  let line = 1;
  return characters.map((character) => (character === "\n" ? line++ : line));
})();
let speaking = 0;

/** Show what the model expected at a place. */
function look(place) {
  looked = place;
  const character = characters[place];
  const where = `place ${number(place)} of ${number(characters.length)}, line ${lines[place]}`;
  const values = [paintings.get(painting)?.value(place)];
  if (given("surprise")) {
    const bits = report.surprise.bits[place];
    values.unshift(`${number(bits, 2)} bits, probability ${percent(2 ** -bits)}`);
  }
  byId("here").textContent = nameOf(character);
  byId("where").textContent = where;
  byId("value").textContent = values.filter(Boolean).join(" · ");
  const likeliest = likeliestAt(place);
  byId("likeliest").replaceChildren(...likeliest.map(({ sign, chance }) => likeliestItem(
    sign, chance, sign === character)));
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    const expected = likeliest.map(({ sign, chance }) => `${nameOf(sign)} ${percent(chance)}`);
    byId("live").textContent = [nameOf(character), where, ...values,
      expected.length ? `likeliest: ${expected.join(", ")}` : ""].filter(Boolean).join(". ");
  }, 250);
}

function likeliestAt(place) {
  if (!given("surprise")) return [];
  const { likeliest, probabilities } = report.surprise;
  const count = likeliest.shape[1];
  return Array.from({ length: count }, (_, rank) => ({
    sign: report.model.vocabulary[likeliest[place * count + rank]],
    chance: probabilities[place * count + rank],
  }));
}

function likeliestItem(sign, chance, came) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * chance}%`;
  return element("li", { class: came ? "came" : null },
    element("bdi", { class: "sign" }, nameOf(sign), came ? " ✓" : ""),
    element("span", { class: "track", "aria-hidden": "true" }, fill),
    element("span", { class: "chance" }, percent(chance)));
}

/** Move the cursor to a place, and bring the text into view where it is not beside the panels. */
function go(place) {
  view.move(place);
  byId("text").scrollIntoView({ block: "nearest" });
}

/** Return a button of a list that leads to a place: an amount and the text around it. */
function placeButton(amount, place, length, press) {
  const shown = (start, end) => visibleText(characters.slice(Math.max(0, start), end).join(""));
  const stop = Math.min(place + length, place + MOST_AROUND);
  const around = element("bdi", { class: "around" },
    shown(place - 8, place),
    element("mark", {}, shown(place, stop)),
    shown(stop, stop + 24));
  return element("li", {}, element("button", { type: "button", "data-place": place, click: press },
    element("span", { class: "amount" }, amount), around));
}

// ---------------------------------------------------------------- panels

function showSurprise() {
  const { mean, sum, most } = report.surprise;
  const items = most.map((place) =>
    placeButton(`${number(report.surprise.bits[place], 2)} bits`, place, 1, () => {
      paintBy("surprise");
      go(place);
    }));
  contentOf("surprise").append(
    element("p", { class: "figure-line" },
      element("strong", {}, `${number(mean, 3)} bits`), " per character in the mean, ",
      element("strong", {}, `${number(sum)} bits`), " in all."),
    element("h3", {}, `The ${most.length} most surprising places`),
    element("ol", { class: "places", id: "most" }, items));
}

function showNeurons() {
  const { concepts, false_alarm: rate, tests, shuffles, why } = report.neurons;
  const content = contentOf("neurons");
  if (why) content.append(element("p", { class: "left-out" }, why));
  if (!concepts.length) return;
  const columns = [
    { name: "concept" }, { name: "unit" }, { name: "score", number: true },
    { name: "first half", number: true }, { name: "p", number: true },
    { name: "clamped: where it holds / elsewhere", number: true },
  ];
  content.append(
    table({ caption: "Units that follow a concept", columns, rows: concepts.flatMap(conceptRows) }),
    element("p", { class: "soft" },
      `If no unit followed any of these concepts, the chance that this table named one all the `
      + `same would be at most ${shortPercent(rate)}: ${number(tests)} units were tested, each `
      + `against ${number(shuffles)} shuffles of the labels. Scores are those on the second half `
      + `of the text, next to those on the first. Clamped is the change of the loss, in bits per `
      + `character, if the unit is held at its mean; for a concept that is a number (R²) it is `
      + `measured everywhere. Press a unit (layer.array.number) to paint it; one with ↓ is low `
      + `where the concept holds.`));
}

/** Return the rows of a concept: one for each found unit, or one that says that there is none. */
function conceptRows(concept) {
  const share = concept.share === null
    ? concept.measure : `${concept.measure}, ${shortPercent(concept.share)} of the text`;
  const name = [element("bdi", {}, visibleText(concept.name)), element("br"),
    element("span", { class: "soft" }, share)];
  const score = (value) => number(value, 3);
  if (!concept.found.length) {
    const best = concept.best
      ? `; the best was ${unitName(concept.best.unit)} with ${score(concept.best.score)}` : "";
    const why = element("span", { class: "soft" }, `none found: ${concept.why ?? ""}${best}`);
    return [[name, wide(why, 5)]];
  }
  return concept.found.map((one, rank) => [
    rank ? "" : name,
    unitButton(one),
    score(one.score),
    number(one.score_first_half, 3),
    one.p.toPrecision(2),
    one.clamped ? clampedText(one.clamped) : "",
  ]);
}

function unitButton({ unit, sign }) {
  const key = keyOf(unit);
  const [arrow, words] = sign < 0 ? [" ↓", ", low where the concept holds"] : ["", ""];
  if (!paintings.has(key)) return unitName(unit) + words;
  return element("button",
    { type: "button", class: "unit", "data-paints": key, "aria-pressed": "false",
      "aria-label": `paint ${unitName(unit)}${words}`, click: () => paintAndShow(key) },
    key + arrow);
}

function paintAndShow(key) {
  paintBy(key);
  byId("text").scrollIntoView({ block: "nearest" });
}

function clampedText({ where, elsewhere }) {
  const change = (value) => (value >= 0.0005 ? "+" : "") + number(value, 3);
  return where === null ? change(elsewhere) : `${change(where)} / ${change(elsewhere)}`;
}

function showMemory() {
  const { contexts, loss, error, full, reach, shuffled, order } = report.memory;
  const marks = [{ y: full, label: `all the context: ${number(full, 3)}` }];
  if (reach) marks.push({ x: reach, label: `reach ${number(reach)}` });
  if (order) marks.push({ x: order, label: `order ${number(order)}`, row: 1 });
  contentOf("memory").append(
    element("p", { class: "figure-line" },
      "The model ", element("strong", {}, report.memory.sentence), "."),
    chart({
      title: "Loss by the length of the context",
      x: { label: "characters of context n", log: true, format: (value) => number(value) },
      y: {
        label: "bits per character",
        low: full - 0.13 * (Math.max(...loss, ...shuffled.loss) - full), // room for a label
        format: (value) => number(value, 3),
      },
      curves: [
        { name: "only the last n characters", x: contexts, y: loss, error },
        { name: "before them others in random order", x: shuffled.contexts, y: shuffled.loss,
          error: shuffled.error, dashed: true },
      ],
      marks,
    }),
    element("p", { class: "soft" },
      `Reach is where the loss comes to within ${shortPercent(report.memory.threshold)} of that `
      + `with all the context and stays there; order is the same for the second curve, whose `
      + `${number(shuffled.block)} characters before the last n are shuffled. Bands are one standard error of the difference `
      + `to the loss with all the context.`));
}

function showGradients() {
  const { distances, curves, clipping } = report.gradients;
  const name = ({ layer, array }) => `layer ${layer}, ${array}`;
  const drawn = curves.flatMap((curve, index) => [
    { name: `${name(curve)}, trained`, x: distances, y: curve.trained, colour: index % 8 },
    curve.untrained && { name: `${name(curve)}, untrained`, x: distances, y: curve.untrained,
      colour: index % 8, dashed: true },
  ]).filter(Boolean);
  const half = (value) => (value === null ? "does not fall" : number(value, 1));
  const columns = [{ name: "state" }, { name: "trained", number: true },
    { name: "untrained", number: true }];
  contentOf("gradients").append(
    chart({
      title: "Norm of the gradient by distance",
      x: { label: "characters back k", format: (value) => number(value) },
      y: { label: "norm of the gradient", log: true },
      curves: drawn,
    }),
    table({
      caption: "Half-distance: characters over which the norm halves, in the mean, from k = 1 on",
      columns,
      rows: curves.map((curve) => [name(curve), half(curve.half_distance),
        curve.untrained ? half(curve.half_distance_untrained) : "–"]),
    }),
    ...clippingOf(clipping));
}

function clippingOf(clipping) {
  if (!clipping) return [];
  const { bound, norms, untrained_norms: before, clipped, factor } = clipping;
  if (!bound) return [element("p", {}, "The training did not clip gradients.")];
  const windows = (values) => Array.from(values, (_, index) => index + 1);
  const dots = (label, y) => ({ name: label, kind: "dots", x: windows(y), y });
  return [
    element("h3", {}, "Clipping"),
    element("p", {},
      `Where the gradient of all parameters is longer than ${short(bound)}, training shortens it `
      + `to ${short(bound)} and keeps its direction. Of ${norms.length} windows of this text `
      + `${shortPercent(clipped)} are clipped; in the mean the step is multiplied by `
      + `${number(factor, 3)}.`),
    chart({
      title: "Norm of the whole gradient, window by window",
      x: { label: "window", low: 0, high: norms.length + 1, format: (value) => number(value) },
      y: { label: "norm", low: 0, high: 1.1 * bound },
      curves: [dots("trained", norms), ...(before ? [dots("untrained", before)] : [])],
      marks: [{ y: bound, label: `bound ${short(bound)}` }],
    }),
  ];
}

function showGates() {
  const { gates, shut_below: low, open_above: high } = report.gates;
  byId("shut-below").textContent = low;
  byId("open-above").textContent = high;
  const name = ({ layer, gate }) =>
    `Layer ${layer}, ${gate}${GATES[gate] ? `, ${GATES[gate]}` : ""}`;
  const charts = gates.map((one) => chart({
    title: name(one),
    x: { label: "share nearly shut", low: 0, high: 1 },
    y: { label: "share nearly open", low: 0, high: 1 },
    curves: [{
      name: name(one), kind: "dots", x: one.shut, y: one.open, colour: (one.layer - 1) % 8,
      labels: Array.from(one.shut, (_, index) => `unit ${index}`),
    }],
    marks: [{ from: [0, 1], to: [1, 0] }],
    square: true,
    choose: (_, index) => paintAny(one.layer, one.gate, index),
  }));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const many = (values) => values.filter((value) => value > 0.9).length;
  const columns = ["gate", "shut, mean", "open, mean", "units shut at over 90\u00a0%",
    "units open at over 90\u00a0%"].map((title, index) => ({ name: title, number: index > 0 }));
  contentOf("gates").append(
    element("div", { class: "charts" }, charts),
    table({
      caption: "All units of a gate together",
      columns,
      rows: gates.map((one) => [name(one), percent(mean(one.shut)), percent(mean(one.open)),
        number(many(one.shut)), number(many(one.open))]),
    }));
}

/** Paint one unit over the first characters. */
function paintAny(layer, array, index) {
  if (!given("neurons")) return;
  const place = report.neurons.excerpt.arrays.findIndex((one) =>
    one.layer === layer && one.array === array);
  if (place < 0) return;
  byId("any-array").value = place;
  byId("any-unit").value = index;
  paintAndShow("any");
}

function showConnectivity() {
  contentOf("connectivity").append(
    element("p", {}, paintButton("connectivity", "Colour the text by connectivity")),
    element("p", { id: "counted-for" }),
    element("ol", { class: "places", id: "counted" }));
}

/** Show what counted most for the character at the cursor. */
function showCounted(place) {
  const strongest = countedFor(place).sort((a, b) => b.size - a.size).slice(0, 8);
  byId("counted-for").textContent = strongest.length
    ? `For ${nameOf(characters[place])} at place ${number(place)} these counted most, by the norm `
      + "of the gradient:"
    : `Nothing comes before place ${number(place)}: choose a character further on.`;
  byId("counted").replaceChildren(...strongest.map((one) =>
    placeButton(short(one.size), one.place, 1, () => go(one.place))));
}

function paintButton(key, words) {
  return element("button", { type: "button", "data-paints": key, "aria-pressed": "false",
    click: () => paintAndShow(key) }, words);
}

function showMatching() {
  const length = element("input",
    { type: "number", id: "span-length", min: 1, max: characters.length, value: 20 });
  const mark = () => {
    const count = Math.max(1, Math.floor(Number(length.value)) || 1);
    view.mark([view.cursor, Math.min(view.cursor + count, characters.length)]);
  };
  contentOf("matching").append(
    element("div", { class: "marking" },
      element("label", {}, "Characters ", length),
      element("button", { type: "button", id: "mark", click: mark }, "Mark from the cursor"),
      element("button", { type: "button", id: "unmark", click: () => view.mark(null) }, "Clear")),
    element("p", { id: "marked", "aria-live": "polite" }, "No span is marked yet."),
    element("ol", { class: "places", id: "matches" }));
}

/** Show the places whose states resemble the marked span most. */
function showMatches(span) {
  found = span ? matches(report.matching.codes, ...span) : [];
  const [start, end] = span ?? [0, 0];
  let words = "No span is marked yet.";
  if (span) {
    words = `Places ${number(start)} to ${number(end - 1)} are marked. `
      + (found.length ? "By cosine similarity these are most like them:"
        : "There is no other place as long in this text.");
  }
  byId("marked").textContent = words;
  byId("matches").replaceChildren(...found.map(({ place, similarity }) =>
    placeButton(number(similarity, 3), place, end - start, () => go(place))));
  if (span && painting !== "matches") paintBy("matches");
  else if (painting === "matches") repaint();
}

/** Return the best matches of a span. The same as matches() of charlm/insight/matching.py. */
function matches(codes, start, end, count = 10) {
  const [total, width] = codes.shape;
  const length = end - start;
  const sums = new Float64Array((total + 1) * width);
  for (let i = 0; i < total * width; i++) sums[i + width] = sums[i] + codes[i];
  const windows = total - length + 1;
  const sum = (place, k) => sums[(place + length) * width + k] - sums[place * width + k];
  const dot = (one, other) => {
    let total = 0;
    for (let k = 0; k < width; k++) total += sum(one, k) * sum(other, k);
    return total;
  };
  const own = Math.sqrt(dot(start, start));
  const similarity = Float64Array.from({ length: windows }, (_, place) => {
    const product = Math.sqrt(dot(place, place)) * own;
    return product > 0 ? dot(place, start) / product : 0;
  });
  const free = new Uint8Array(windows).fill(1);
  free.fill(0, Math.max(0, start - length + 1), end);
  const best = [];
  while (best.length < count) {
    let place = -1;
    for (let i = 0; i < windows; i++) {
      if (free[i] && (place < 0 || similarity[i] > similarity[place])) place = i;
    }
    if (place < 0) break;
    best.push({ place, similarity: similarity[place] });
    free.fill(0, Math.max(0, place - length + 1), place + length);
  }
  return best;
}

// ---------------------------------------------------------------- the page as a whole

function showHeader() {
  const { model, text } = report;
  const name = visibleText(model.name);
  document.title = `${name || "A model"}: what it has learned`;
  if (name) byId("name").replaceChildren("What ", element("bdi", {}, name), " has learned");
  byId("model").textContent = `${layersOf(model)}, ${number(model.parameters)} parameters, `
    + `${number(model.vocab_size)} characters known`;
  const count = text.characters < text.total
    ? `${number(text.characters)} of ${number(text.total)} characters`
    : `${number(text.characters)} characters`;
  byId("source").replaceChildren("Text: ",
    ...(text.source ? [element("bdi", {}, visibleText(text.source)), ", "] : []), count,
    ". Places are counted from 0, as in Python.");
  byId("notices").replaceChildren(...text.notices.map((notice) =>
    element("li", {}, visibleText(notice))));
  byId("notices").hidden = !text.notices.length;
  if (model.equations) {
    byId("notices").after(openable(`The equations of the cell (${model.backbone})`,
      () => element("pre", {}, model.equations)));
  }
}

const PANELS = {
  surprise: showSurprise,
  neurons: showNeurons,
  memory: showMemory,
  gradients: showGradients,
  gates: showGates,
  connectivity: showConnectivity,
  matching: showMatching,
};

function start() {
  showHeader();
  view = new TextView(byId("characters"), characters, {
    look,
    move: (place) => {
      if (given("connectivity")) showCounted(place);
      if (painting === "connectivity") repaint();
    },
    mark: (span) => given("matching") && showMatches(span),
  });
  addPaintings();
  for (const [panel, show] of Object.entries(PANELS)) {
    if (given(panel)) show();
    else {
      const why = report[panel]?.left_out ?? "It was not computed.";
      contentOf(panel).append(element("p", { class: "left-out" }, why));
    }
  }
  byId("paint").addEventListener("change", (event) => paintBy(event.target.value));
  byId("any").addEventListener("input", () => paintBy("any"));
  setUpTheme(byId("theme"));
  setUpContents(byId("contents"));
  paintBy(paintings.keys().next().value);
  if (given("connectivity")) showCounted(0);
  look(0);
}

start();
