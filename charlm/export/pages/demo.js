// The page that writes. What it draws is drawn by engine.js and writer.js.

const SLICE = 20; // milliseconds of drawing, after which the browser may show and react
const STRONGEST = 10; // bits of surprise that have the strongest colour
const MOST_UNDONE = 50;
const LIKELIEST = 10;

const byId = (id) => document.getElementById(id);
const facts = readData();
const { model } = facts;
const vocabulary = Array.from(model.vocabulary, (point) => String.fromCodePoint(point));
const idOf = new Map(vocabulary.map((character, id) => [character, id]));
const isItems = model.lineEnd !== null;

let engine = null; // until the weights are there
let writer = null;
let asked = null; // what the text was begun with: settings, prompt, and what was changed since
let job = null; // what is being written: {target, settings, began, from}
let before = []; // {writer, asked}: texts to go back to
let looked = null; // the place whose likeliest characters are shown

const view = new TextView(byId("characters"), [], {
  look: () => {},
  mark: () => {},
  move: (place) => look(place),
});

// ---------------------------------------------------------------- the form

/** Return the settings of the form, or null if one of them is wrong, which the browser then says. */
function readSettings() {
  byId("settings").open ||= !byId("form").checkValidity(); // else a wrong field cannot be shown
  if (!byId("form").reportValidity()) return null;
  const seed = byId("seed");
  if (seed.value === "") seed.value = randomSeed();
  const value = (id) => Number(byId(id).value);
  return {
    temperature: value("temperature"),
    topK: value("top-k"),
    topP: value("top-p"),
    seed: value("seed"),
    length: value("length"),
  };
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/** Return the prompt, its ids, and what the model does not know of it. An item is one line. */
function readPrompt() {
  const text = isItems ? byId("prompt").value.replaceAll("\n", "") : byId("prompt").value;
  const ids = [];
  const left = new Map();
  for (const character of text) {
    const id = idOf.get(character) ?? model.unknown;
    if (id !== null) ids.push(id);
    if (!idOf.has(character)) left.set(character, 1 + (left.get(character) ?? 0));
  }
  return { text, ids, left };
}

function sayUnknown({ text, left }) {
  const named = Array.from(left, ([character, count]) =>
    (count > 1 ? `${nameOf(character)} (${count})` : nameOf(character)));
  const shown = named.slice(0, 8).join(", ") + (named.length > 8 ? ", …" : "");
  const how = model.unknown === null
    ? "They stay in the prompt, but are not read"
    : "They are read as an unknown character";
  const notes = [];
  if (left.size) notes.push(`The model does not know: ${shown}. ${how}.`);
  if (text !== byId("prompt").value) notes.push("An item is one line: line ends are left out.");
  byId("notice").textContent = notes.join(" ");
}

// ---------------------------------------------------------------- writing

function write() {
  if (!engine) return;
  stop();
  if (!byId("keep").checked) byId("seed").value = randomSeed();
  const settings = readSettings();
  if (!settings) return;
  const prompt = readPrompt();
  sayUnknown(prompt);
  keep();
  writer = new Writer(engine, prompt.ids);
  asked = { settings, prompt: prompt.text, skipped: prompt.left.size > 0, changed: false };
  closeReadout();
  if (!isWide()) byId("sheet").scrollIntoView();
  start(settings, settings.length);
}

function goOn() {
  const settings = readSettings();
  if (!settings || !writer || job) return;
  keep();
  start(settings, settings.length);
}

/** Keep the text as it is, for Undo. */
function keep() {
  if (writer) before = [...before, { writer: writer.copy(), asked }].slice(-MOST_UNDONE);
}

function undo() {
  stop();
  const last = before.pop();
  if (!last) return;
  ({ writer, asked } = last);
  writer.seek(writer.ids.length);
  writer.lowest = 0;
  closeReadout();
  show();
  finish("Undone");
}

/** Write so many more characters, or items. */
function start(settings, count) {
  const { length: _, ...own } = settings;
  const { length: __, ...first } = asked.settings;
  if (JSON.stringify(own) !== JSON.stringify(first)) asked = { ...asked, changed: true };
  job = { settings, count, items: 0, from: writer.ids.length, began: performance.now() };
  job.tries = writer.last.sample + 100 * count;
  byId("live").textContent = "Writing";
  enable();
  setTimeout(slice);
}

function slice() {
  if (!job) return;
  const end = performance.now() + SLICE;
  try {
    while (performance.now() < end && !isDone()) {
      if (writer.next(job.settings)) job.items++;
    }
  } catch (error) {
    show();
    finish(error.message);
    return;
  }
  const isScrolled = isAtEnd();
  show();
  if (isScrolled) byId("characters").scrollTop = byId("characters").scrollHeight;
  if (isDone()) finish();
  else {
    byId("status").textContent = `${amount()} …`;
    setTimeout(slice);
  }
}

function isDone() {
  if (isItems) return job.items >= job.count || writer.last.sample >= job.tries;
  return writer.unread.length === 0 && writer.ids.length >= goal();
}

function goal() {
  return Math.max(job.from, writer.samples[0].start) + job.count;
}

function isAtEnd() {
  const { scrollTop, scrollHeight, clientHeight } = byId("characters");
  return scrollHeight - scrollTop - clientHeight < 60;
}

function stop() {
  if (job) finish();
}

/** End what is being written, and say what there is. */
function finish(message = "") {
  let speed = "";
  if (job && writer.ids.length > job.from) {
    const seconds = (performance.now() - job.began) / 1000;
    speed = `, ${number((writer.ids.length - job.from) / seconds)} characters a second`;
  }
  job = null;
  const said = message || `${amount()}${speed}, seed ${asked.settings.seed}`;
  byId("status").textContent = said;
  byId("live").textContent = message || `Written: ${amount()}`;
  sayCommand();
  enable();
}

function amount() {
  const drawn = Math.max(0, writer.ids.length - writer.samples[0].start);
  const items = writer.ids.filter((id) => id === model.lineEnd).length - 1;
  return isItems ? `${number(items)} items` : `${number(drawn)} characters`;
}

function enable() {
  byId("write").disabled = !engine;
  byId("continue").disabled = !writer || Boolean(job);
  byId("stop").disabled = !job;
  byId("undo").disabled = before.length === 0;
  byId("copy").disabled = !writer;
}

/** Show the command that draws the same text in Python. */
function sayCommand() {
  const { settings, prompt, skipped, changed } = asked;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const drawn = writer.ids.length - writer.samples[0].start;
  const items = writer.ids.filter((id) => id === model.lineEnd).length - 1;
  const words = [
    `charlm generate ${quoted(facts.run)} --exact`,
    prompt ? `--prompt=${quoted(prompt)}` : "",
    `--temperature ${settings.temperature} --top-k ${settings.topK} --top-p ${settings.topP}`,
    `--seed ${settings.seed}`,
    isItems ? `--num-samples ${items}` : `--length ${drawn}`,
    skipped && model.unknown === null ? "--unknown skip" : "",
  ];
  const isShown = (isItems ? items : drawn) > 0;
  byId("repeat").hidden = !isShown;
  byId("command").textContent = words.filter((word) => word).join(" \\\n  ");
  byId("by-hand").textContent = changed
    ? "A character or a setting was changed on the way: from there on the text is another."
    : "";
}

// ---------------------------------------------------------------- the text

/** Show what has been written since the last time. */
function show() {
  const { ids, bits, hidden, lowest, samples } = writer;
  const from = Math.max(0, Math.min(view.spans.length, lowest - hidden));
  view.cut(from);
  view.append(ids.slice(from + hidden).map((id) => vocabulary[id]));
  const promptEnd = isItems ? 0 : samples[0].start - hidden;
  for (let place = from; place < Math.min(promptEnd, view.spans.length); place++) {
    view.base[place] += " prompt";
  }
  writer.lowest = ids.length;
  paint(from);
}

/** Colour the text from a place on. */
function paint(from = 0) {
  const isOn = byId("colours").checked;
  byId("scale").hidden = !isOn;
  const level = (value) => (isOn && value !== null
    ? Math.min(STEPS, Math.round(STEPS * value / STRONGEST))
    : 0);
  if (writer) view.paint(writer.bits.slice(writer.hidden).map(level), ["hot", "cold"], from);
}

/** Show the likeliest characters at a place of the text. */
function look(place) {
  stop();
  looked = place;
  const { hidden, ids, bits } = writer;
  const logits = writer.logitsAt(place + hidden);
  const id = ids[place + hidden];
  byId("characters").classList.add("looked");
  byId("readout").hidden = false;
  byId("here").textContent = nameOf(vocabulary[id]);
  byId("where").textContent = `character ${number(place + 1)}`;
  byId("likeliest").replaceChildren();
  if (!logits) {
    byId("value").textContent = "The text begins here: nothing was read before.";
    return;
  }
  const shares = probabilities(logits);
  const surprise = `${number(bits[place + hidden], 1)} bits of surprise`;
  byId("value").textContent = `Probability ${percent(shares[id])}, ${surprise}. `
    + "Choose another character to go on with it:";
  const first = ranking(logits).slice(0, LIKELIEST);
  const shown = first.includes(id) ? first : [...first, id];
  byId("likeliest").append(...shown.map((one) => choice(place, one, shares, id)));
  uncover(place);
}

/** Scroll a character out from below the list, which lies over the text on a phone. */
function uncover(place) {
  if (isWide()) return;
  const { bottom } = view.spans[place].getBoundingClientRect();
  const covered = bottom + 20 - byId("readout").getBoundingClientRect().top;
  if (covered > 0) scrollBy(0, covered);
}

function isWide() {
  return matchMedia("(min-width: 62rem)").matches;
}

function choice(place, one, shares, id) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${Math.max(1, 100 * shares[one])}%`; // in script: the policy allows no other
  return element("li", {},
    element("button", {
      type: "button",
      "aria-current": one === id ? "true" : null,
      disabled: one === id || one === model.unknown,
      click: () => putAt(place, one),
    },
    element("span", { class: "sign" }, nameOf(vocabulary[one])),
    element("span", { class: "track" }, fill),
    element("span", { class: "chance" }, percent(shares[one]))));
}

/** Put another character at a place, and go on from there. */
function putAt(place, id) {
  const settings = readSettings();
  if (!settings) return;
  keep();
  writer.replace(place + writer.hidden, id);
  asked = { ...asked, changed: true };
  closeReadout();
  start(settings, isItems ? 1 : settings.length);
  byId("characters").focus();
}

function closeReadout() {
  looked = null;
  byId("readout").hidden = true;
  byId("characters").classList.remove("looked");
}

// ---------------------------------------------------------------- buttons and keys

function fillPage() {
  byId("settings").open = isWide();
  document.title = visibleText(facts.title);
  byId("title").textContent = visibleText(facts.title);
  if (facts.description) byId("description").textContent = facts.description;
  byId("prompt").value = facts.prompt;
  byId("temperature").value = facts.settings.temperature;
  byId("length").value = isItems ? 10 : facts.settings.length;
  if (isItems) {
    byId("length-name").textContent = "Items";
    byId("length-help").textContent = "items that are written at a time, one for each line";
    byId("prompt").placeholder = "What every item begins with; may be empty";
  }
  const size = facts.characters ? ` (${number(facts.characters)} characters)` : "";
  const source = facts.files.length
    ? `, trained on ${visibleText(facts.files.join(", "))}${size}`
    : "";
  byId("model").textContent = `${layersOf(facts)}, ${number(facts.parameters)} parameters, `
    + `${number(vocabulary.length)} characters${source}`;
  byId("vocabulary").textContent = vocabulary.map(nameOf).join(" ");
  byId("steps").append(...Array.from({ length: STEPS }, (_, step) =>
    element("span", { class: `hot w${step + 1}` })));
}

function setUpForm() {
  setUpTheme(byId("theme"));
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  byId("prompt").addEventListener("input", () => sayUnknown(readPrompt()));
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || isItems)) {
      event.preventDefault();
      write();
    }
  });
  byId("seed").addEventListener("input", () => { byId("keep").checked = true; });
  byId("continue").addEventListener("click", goOn);
  byId("stop").addEventListener("click", stop);
  byId("undo").addEventListener("click", undo);
  byId("close").addEventListener("click", closeReadout);
  byId("colours").addEventListener("change", () => paint());
  byId("characters").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !view.spans.length) return;
    event.preventDefault();
    look(view.cursor);
    byId("likeliest").querySelector("button:enabled")?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    stop();
    closeReadout();
  });
  byId("copy").addEventListener("click", () =>
    copyText(writer.ids.slice(writer.hidden).map((id) => vocabulary[id]).join(""), byId("copy")));
  byId("copy-command").addEventListener("click", () =>
    copyText(byId("command").textContent, byId("copy-command")));
}

/** Return the bytes of the weights, which are compressed. */
async function readWeights() {
  const bytes = Uint8Array.from(atob(facts.weights), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

fillPage();
setUpForm();
sayUnknown(readPrompt());
enable();
readWeights().then((bytes) => {
  engine = new Engine(model, bytes);
  enable();
}, (error) => {
  byId("status").textContent = `This browser cannot read the model: ${error.message}`;
});
