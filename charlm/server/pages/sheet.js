// The text: reading, editing, writing on, the likeliest characters at a place, continuations.

const STRONGEST = 10; // bits of surprise that have the strongest colour
const LIKELIEST = 10;
const SHOWN = 20_000; // characters at the end of a long text that can be read
const SHIFT = 5_000; // by which the others are left out
const LONGEST_SCORED = 50_000; // characters that are coloured although they were not drawn here
const LONG_PASTE = 10_000;
const CONTEXT = 24; // characters before a continuation that are shown with it
const SHOW_EVERY = 40; // milliseconds between two looks at what was drawn
const LOOK_AFTER = 120; // milliseconds at a character until the server is asked
const MOST_TOLD = 6000; // characters whose likeliest are asked for as they are drawn

const byId = (id) => document.getElementById(id);

let tree = new Tree();
let text = tree.read(); // of the current node
let offset = 0; // how many characters in front of those in the view
let isEditing = true;
let job = null; // what is being written: {controller, asks, began, timer}
let candidates = []; // continuations to pick one of: {ask, node, drawn, parts}
let looked = null; // the place whose likeliest characters are shown

const view = new TextView(byId("characters"), [], {
  look: () => {},
  mark: () => {},
  move: (place) => look(offset + place),
});

// ---------------------------------------------------------------- showing

/** Show the current text; what is in the view already stays. */
function showText() {
  text = tree.read();
  const { characters, given } = text;
  const before = offset;
  offset = characters.length <= SHOWN + SHIFT
    ? 0
    : SHIFT * Math.floor((characters.length - SHOWN) / SHIFT);
  let same = 0;
  if (offset === before) {
    const { spans, base } = view;
    const most = Math.min(spans.length, characters.length - offset);
    const isSame = (i) => spans[i].character === characters[offset + i]
      && base[i].endsWith(" prompt") === given[offset + i];
    while (same < most && isSame(same)) same++;
  }
  view.cut(same);
  appendFrom(offset + same);
}

/** Add the characters from a place on to the view. */
function appendFrom(place) {
  const { characters, given } = text;
  view.append(characters.slice(place));
  for (let i = place - offset; i < view.spans.length; i++) {
    view.spans[i].character = characters[offset + i];
    if (given[offset + i]) view.base[i] += " prompt";
  }
  paint(place - offset);
}

/** Colour the view from a place on. */
function paint(from = 0) {
  const isOn = byId("colours").checked;
  byId("scale").hidden = !isOn;
  view.paint(text.bits.slice(offset).map(isOn ? levelOf : () => 0), ["hot", "cold"], from);
}

function levelOf(bits) {
  return bits === null ? 0 : Math.min(STEPS, Math.round(STEPS * bits / STRONGEST));
}

/** Show the text of the current node after it has changed, and all that depends on it. */
function refresh() {
  leaveEditor();
  closeReadout();
  showText();
  if (!text.characters.length) startEditing(0, false);
  sayNotice();
  showBranches();
  colourRest();
  enable();
  keepPage();
}

/** Ask how surprising the characters are that were typed. */
async function colourRest() {
  const { characters, bits } = text;
  if (!byId("colours").checked || job || !bits.includes(null)) return;
  if (characters.length > LONGEST_SCORED || placeOfHalf(characters.join("")) >= 0) return;
  try {
    const asked = { model: modelOf("run"), text: characters.join("") };
    const found = await client.json("/v1/score", asked);
    if (characters !== text.characters) return;
    const read = Array.from(found.text);
    const isWhole = read.length === characters.length;
    let place = 0; // what the model leaves out has no surprise
    tree.fill(characters.map((character) =>
      (isWhole || character === read[place] ? found.bits[place++] : null)));
    text.bits = tree.read().bits;
    paint();
  } catch { // the text stays pale: what is wrong with it is said when it is continued
  }
}

// ---------------------------------------------------------------- editing

/** Let the text be edited, with the caret before a place. */
function startEditing(place, focus = true) {
  const editor = byId("editor");
  stop();
  closeCandidates();
  if (!isEditing || editor.value === "") editor.value = text.characters.join("");
  isEditing = true;
  const { scrollTop } = byId("characters");
  byId("characters").hidden = true;
  editor.hidden = false;
  editor.scrollTop = scrollTop;
  closeReadout();
  if (focus) {
    editor.focus();
    const caret = text.characters.slice(0, place).join("").replaceAll("\r\n", "\n").length;
    editor.setSelectionRange(caret, caret);
  }
  enable();
}

/** End the editing: what was changed becomes a branch. */
function endEditing() {
  if (!isEditing) return;
  const change = changeOf(text.characters, byId("editor").value);
  if (change) {
    const given = Array.from(change.text).length;
    tree.go(tree.add({ ...change, kind: "typed", given }));
  }
  refresh();
}

function leaveEditor() {
  const hadFocus = document.activeElement === byId("editor");
  const { scrollTop } = byId("editor");
  byId("characters").hidden = false;
  if (isEditing) byId("characters").scrollTop = scrollTop;
  isEditing = false;
  byId("editor").hidden = true;
  byId("editor").value = "";
  if (hadFocus) byId("characters").focus();
}

/** Paste a long text at once: Chromium's own way takes time with the square of its length. */
function paste(event) {
  const pasted = event.clipboardData.getData("text/plain");
  if (pasted.length < LONG_PASTE) return;
  event.preventDefault();
  const editor = byId("editor");
  editor.setRangeText(pasted, editor.selectionStart, editor.selectionEnd, "end");
  editor.dispatchEvent(new Event("input"));
}

/** Return the text as it is seen now, edited or not. */
function seenText() {
  return isEditing ? byId("editor").value : text.characters.join("");
}

// ---------------------------------------------------------------- writing

/** Continue the text by all runs that are chosen. */
function goOn() {
  if (job) return;
  const settings = readSettings();
  if (!settings) return;
  endEditing();
  const runs = chosenRuns();
  const keep = text.characters.length;
  if (!isSendable(text.characters.join(""))) return;
  const asks = runs.map((model) => askFor(model, settings, keep));
  if (asks.length * settings.n === 1) writeHere(asks[0], { keep, kind: "written", given: 0 });
  else writeBeside(asks, keep);
}

/** Return what to ask a run for: to continue the first so many characters of the text. */
function askFor(model, settings, keep, more = []) {
  const prompt = promptFor(model, [...text.characters.slice(0, keep), ...more]);
  const { colours, ...given } = settings;
  const isTold = settings.n * settings.max_tokens <= MOST_TOLD;
  const logprobs = colours ? { logprobs: isTold ? LIKELIEST : 0 } : {};
  const stop = isItems(model) ? [...settings.stop, "\n"] : settings.stop;
  return {
    model,
    about: { model, ...given },
    body: { model, prompt, stream: true, ...given, ...logprobs, stop },
    targets: Array.from({ length: settings.n }, () => new Drawn()),
  };
}

/** Return what a run reads of a text: all of it, or of a model of items the last line. */
function promptFor(model, characters) {
  const prompt = characters.join("");
  return isItems(model) ? prompt.slice(prompt.lastIndexOf("\n") + 1) : prompt;
}

/** Write into a new step, which is shown as it grows. */
function writeHere(ask, { keep, kind, text: first = "", given }) {
  const about = { ...ask.about, index: 0 };
  const node = tree.add({ keep, text: first, kind, given, about });
  const [drawn] = ask.targets;
  node.bits = Array(given).fill(null);
  node.tops = Array(given).fill(null);
  tree.go(node);
  refresh();
  leaveEditor(); // where refresh() has opened it, as there is no text yet
  enable();
  byId("characters").focus();
  byId("characters").scrollTop = byId("characters").scrollHeight;
  const onShow = () => {
    if (!drawn.count) return;
    const isAtEnd = isScrolledDown();
    node.text = first + drawn.text;
    node.bits.length = node.tops.length = given;
    for (const bits of drawn.bits) node.bits.push(bits);
    for (const tops of drawn.tops) node.tops.push(tops);
    if (tree.current === node) showText();
    if (isAtEnd) byId("characters").scrollTop = byId("characters").scrollHeight;
  };
  const onEnd = () => {
    if (node.text === "") {
      tree.remove(node);
      refresh();
    }
  };
  run([ask], onShow, onEnd);
}

function isScrolledDown() {
  const { scrollTop, scrollHeight, clientHeight } = byId("characters");
  return scrollHeight - scrollTop - clientHeight < 60;
}

/** Write several continuations, each a branch of its own, to pick one of. */
function writeBeside(asks, keep) {
  closeCandidates();
  const parent = tree.current;
  for (const ask of asks) {
    ask.targets.forEach((drawn, index) => {
      const about = { ...ask.about, index };
      const node = tree.add({ keep, kind: "written", about }, parent);
      candidates.push({ ask, node, drawn, parts: candidateParts(candidates.length, ask) });
    });
  }
  const several = asks.length > 1 ? candidates.map(({ ask }) => visibleText(ask.model)) : null;
  byId("candidates").replaceChildren(...candidates.map(({ parts }, i) => {
    if (several) parts.title.append(` ${several[i]}`);
    return parts.box;
  }));
  byId("candidates").hidden = false;
  const onShow = () => candidates.forEach(showCandidate);
  const onEnd = () => {
    for (const { node } of candidates) if (node.text === "") tree.remove(node);
    if (candidates.every(({ node }) => node.text === "")) closeCandidates();
    showBranches();
  };
  run(asks, onShow, onEnd);
  showBranches();
  byId("candidates").scrollIntoView({ block: "nearest" });
}

function candidateParts(place, ask) {
  const title = element("h3", { id: `candidate${place}` }, `${place + 1}`);
  const body = element("div", {
    class: "written characters", tabindex: 0, role: "group", dir: "auto",
    "aria-labelledby": `candidate${place}`,
  });
  const said = element("span", { class: "soft" });
  const box = element("article", { class: "candidate", "aria-labelledby": `candidate${place}` },
    title, body,
    element("div", { class: "buttons" },
      element("button", { type: "button", class: "pick", click: () => pick(place) }, "Pick"),
      element("button", { type: "button", click: () => keepCandidate(place) }, "Keep"),
      said));
  const line = body.appendChild(element("div", { dir: "auto" },
    element("span", { class: "context" }, contextOf(text.characters))));
  return { box, title, body, line, said, shown: 0, model: ask.model };
}

/** Return the end of the last line, which shows what a continuation goes on from. */
function contextOf(characters) {
  const end = characters.slice(-CONTEXT);
  return visibleText(end.slice(end.lastIndexOf("\n") + 1).join(""));
}

function showCandidate({ node, drawn, parts }) {
  node.text = drawn.text;
  node.bits = drawn.bits;
  node.tops = drawn.tops;
  parts.said.textContent = drawn.mean === null
    ? characterCount(drawn.count)
    : `${number(drawn.mean, 2)} bits each`;
  appendColoured(parts, drawn);
}

/** Add what is new of a drawn text to a box, coloured if that is wanted. */
function appendColoured(parts, drawn) {
  if (parts.shown === drawn.count) return;
  const isOn = byId("colours").checked;
  const characters = Array.from(drawn.text);
  for (; parts.shown < drawn.count; parts.shown++) {
    const character = characters[parts.shown];
    const span = characterElement(character);
    const level = isOn ? levelOf(drawn.bits[parts.shown]) : 0;
    if (level) span.classList.add("hot", `w${level}`);
    parts.line ??= parts.body.appendChild(element("div", { dir: "auto" }));
    parts.line.append(span);
    if (character === "\n") parts.line = null;
  }
}

/** Go on with one of the continuations. */
function pick(place) {
  const found = candidates[place];
  if (!found || found.node.text === "") return;
  stop();
  const isThere = tree.nodes.has(found.node.id); // old branches are forgotten where room is short
  tree.go(isThere ? found.node : tree.add({ ...found.node, keep: text.characters.length }));
  closeCandidates();
  refresh();
  byId("characters").focus();
  byId("characters").scrollTop = byId("characters").scrollHeight;
  announce(`Continuation ${place + 1} is picked`);
}

function keepCandidate(place) {
  const { node, drawn, ask } = candidates[place];
  if (drawn.count) keepFavourite(tree.read(node).characters.join(""), ask.model);
}

function closeCandidates() {
  candidates = [];
  byId("candidates").hidden = true;
  byId("candidates").replaceChildren();
}

// ---------------------------------------------------------------- the likeliest characters

let lookTimer = null;

/** Show the likeliest characters at a place of the text, or after its end. */
async function look(place, focus = false) {
  clearTimeout(lookTimer);
  looked = place;
  const { characters, bits, tops } = text;
  const here = characters[place];
  const node = tree.current;
  const isSame = () => looked === place && node === tree.current;
  byId("characters").classList.add("looked");
  byId("readout").hidden = false;
  byId("here").textContent = here === undefined ? "The end" : nameOf(here);
  byId("where").textContent = here === undefined ? "" : `character ${number(place + 1)}`;
  byId("likeliest").replaceChildren();
  byId("value").textContent = "…";
  let found = tops[place];
  if (!found) {
    const half = placeOfHalf(characters.slice(0, place).join(""));
    if (half >= 0) {
      byId("value").textContent = halfWords(half);
      return;
    }
    await new Promise((resolve) => { lookTimer = setTimeout(resolve, LOOK_AFTER); });
    try {
      const model = modelOf("run");
      const prompt = promptFor(model, characters.slice(0, place));
      const answer = await client.json("/v1/next", { model, prompt, top: LIKELIEST });
      found = answer.characters.map((one) => [one.text, one.probability]);
    } catch (error) {
      if (isSame()) byId("value").textContent = error.message;
      return;
    }
    if (!isSame()) return;
  }
  showLikeliest(place, found, here, bits[place] ?? null);
  if (focus) byId("likeliest").querySelector("button:enabled")?.focus();
}

function showLikeliest(place, found, here, bits) {
  const told = found.find(([character]) => character === here)?.[1];
  const share = told ?? (bits === null ? null : 2 ** -bits);
  const surprise = bits === null && share ? -Math.log2(share) : bits;
  const all = share === null
    ? `Less likely than the ${found.length} likeliest`
    : `Probability ${percent(share)}, ${number(surprise, 2)} bits of surprise`;
  const words = here === undefined
    ? "Choose the character to go on with:"
    : `${all}. Choose another character to go on with it:`;
  byId("value").textContent = words;
  const shown = found.slice(0, LIKELIEST);
  const isShown = here === undefined || shown.some(([character]) => character === here);
  if (!isShown && share !== null) shown.push([here, share]);
  byId("likeliest").append(...shown.map((one) => choice(place, one, here)));
  const first = shown.slice(0, 3).map(([one, chance]) => `${nameOf(one)} ${percent(chance)}`);
  announce(`${here === undefined ? "The end" : nameOf(here)}. Likeliest: ${first.join(", ")}`);
  uncover(place - offset);
}

function choice(place, [character, share], here) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${Math.max(1, 100 * share)}%`; // in script: the policy allows no other
  return element("li", {},
    element("button", {
      type: "button",
      "aria-current": character === here ? "true" : null,
      disabled: character === here,
      click: () => choose(place, character),
    },
    element("span", { class: "sign" }, nameOf(character)),
    element("span", { class: "track" }, fill),
    element("span", { class: "chance" }, percent(share))));
}

/** Scroll a character out from below the list, which lies over the text on a phone. */
function uncover(place) {
  if (isWide() || !view.spans[place]) return;
  const { bottom } = view.spans[place].getBoundingClientRect();
  const covered = bottom + 20 - byId("readout").getBoundingClientRect().top;
  if (covered > 0) scrollBy(0, covered);
}

/** Put another character at a place, and go on from there. */
function choose(place, character) {
  stop();
  const settings = readSettings();
  if (!settings) return;
  closeCandidates();
  const ask = askFor(modelOf("run"), { ...settings, n: 1 }, place, [character]);
  writeHere(ask, { keep: place, kind: "chosen", text: character, given: 1 });
}

function closeReadout() {
  clearTimeout(lookTimer);
  looked = null;
  byId("readout").hidden = true;
  byId("characters").classList.remove("looked");
}
