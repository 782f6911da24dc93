// The page of `charlm serve`: runs, settings, keys, and what is kept.

const KEEP_AFTER = 300; // milliseconds without a change until the page is kept
const LOOK_SECONDS = 3; // between two looks whether the server is back, or a run has a model
const data = readData();
let cards = data.models; // of the runs
let mode = "text";

const client = new Client({
  busy: (seconds) => say(`The server is busy: trying again in ${seconds} s …`),
  gone: () => lookForServer(),
  reached: () => { byId("gone").hidden = true; },
  locked: () => lock(client.key === null ? "" : "The key is wrong."),
});

// ---------------------------------------------------------------- words

function say(words) {
  byId(mode === "lines" ? "lines-status" : "status").textContent = words;
}

function announce(words) {
  byId("live").textContent = words;
}

function showProblem(words) {
  const box = byId(mode === "lines" ? "lines-problem" : "problem");
  box.textContent = words;
  box.hidden = !words;
  if (words) box.scrollIntoView({ block: "nearest" });
}

function characterCount(count) {
  return count === 1 ? "1 character" : `${number(count)} characters`;
}

function halfWords(place) {
  return `Character ${number(place + 1)} is half a character (a lone surrogate), which no `
    + "server can read: delete it.";
}

/** Return whether a text can be sent; if not, say why. */
function isSendable(whole) {
  const place = placeOfHalf(whole);
  if (place >= 0) showProblem(halfWords(place));
  return place < 0;
}

/** Make a button answer or not; it keeps the focus, so that keys still work. */
function setEnabled(id, isOn) {
  byId(id).setAttribute("aria-disabled", !isOn);
}

function enable() {
  setEnabled("continue", !job);
  setEnabled("write-lines", !job);
  setEnabled("stop", Boolean(job));
  setEnabled("stop-lines", Boolean(job));
  const isChanged = isEditing && changeOf(text.characters, byId("editor").value) !== null;
  setEnabled("undo", tree.past.length > 0 || isChanged);
  setEnabled("redo", tree.future.length > 0);
  setEnabled("next", !isEditing);
  setEnabled("edit", !isEditing || text.characters.length > 0 || isChanged);
  byId("edit").textContent = isEditing ? "Done" : "Edit";
}

/** Tell which characters of the text the model does not know. */
function sayNotice() {
  for (const [id, whole] of [["notice", seenText()], ["lines-notice", byId("start").value]]) {
    const notes = [];
    for (const model of cards.length ? chosenRuns() : []) {
      const known = new Set(card(model).vocabulary ?? whole);
      const unknown = Array.from(new Set(whole)).filter((character) => !known.has(character));
      const first = unknown.slice(0, 8).map(nameOf).join(", ");
      const named = first + (unknown.length > 8 ? ", …" : "");
      if (unknown.length) notes.push(`${visibleText(model)} does not know: ${named}.`);
      if (isItems(model) && id === "notice" && /\n./su.test(whole)) {
        notes.push(`${visibleText(model)} writes single lines: it reads the last line only.`);
      }
    }
    byId(id).textContent = notes.join(" ");
  }
}

// ---------------------------------------------------------------- writing

/**
 * Ask the server for continuations. They are drawn into the targets of each ask.
 *
 * onShow is called when something has been drawn, onEnd when all is at its end, or stopped.
 * amount, if given, tells in words how much there is.
 */
function run(asks, onShow, onEnd, amount) {
  const own = { controller: new AbortController(), asks, onShow, onEnd, errors: new Map() };
  own.amount = amount ?? (() => characterCount(drawnBy(own)));
  own.began = performance.now();
  job = own;
  showProblem("");
  say("Writing …");
  announce("Writing");
  enable();
  const take = (ask, event) => {
    if (job !== own) return;
    for (const choice of event.choices) ask.targets[choice.index].add(choice);
    own.timer ??= setTimeout(() => showDrawn(own), SHOW_EVERY);
  };
  const all = asks.map((ask) => client
    .stream("/v1/completions", ask.body, own.controller.signal, (event) => take(ask, event))
    .catch((error) => own.errors.set(ask, error)));
  Promise.all(all).then(() => { if (job === own) finish(); });
}

function showDrawn(own) {
  own.timer = null;
  if (job !== own) return;
  own.onShow();
  say(`${own.amount()} …`);
}

function drawnBy({ asks }) {
  return asks.flatMap(({ targets }) => targets).reduce((sum, { count }) => sum + count, 0);
}

/** End what is being written, and say what there is. */
function finish() {
  const own = job;
  own.onShow();
  job = null;
  own.controller.abort();
  clearTimeout(own.timer);
  const seconds = (performance.now() - own.began) / 1000;
  const { seed } = own.asks[0].about;
  const speed = `${number(drawnBy(own) / seconds)} characters a second`;
  const isRefused = own.errors.size > 0 && drawnBy(own) === 0;
  say(isRefused ? "" : `${own.amount()}, ${speed}, seed ${seed}`);
  announce(`Written: ${own.amount()}`);
  showSeed(seed);
  const several = own.asks.length > 1;
  showProblem(own.asks.filter((ask) => own.errors.has(ask)).map((ask) => {
    const { message } = own.errors.get(ask);
    return several ? `${visibleText(ask.model)}: ${message}` : message;
  }).join(" "));
  own.onEnd();
  enable();
  showBranches();
  colourRest();
  keepPage();
}

function stop() {
  if (job) finish();
}

function goBack(isRedo = false) {
  stop();
  closeCandidates();
  endEditing();
  if (isRedo ? tree.redo() : tree.undo()) {
    refresh();
    announce(isRedo ? "Redone" : "Undone");
  }
}

/** Begin with a text, as a branch from the start. */
function beginText(whole) {
  stop();
  endEditing();
  closeCandidates();
  const [start] = tree.path(tree.current);
  const given = Array.from(whole).length;
  tree.go(whole ? tree.add({ keep: 0, text: whole, kind: "typed", given }, start) : start);
  refresh();
}

// ---------------------------------------------------------------- a server that is gone, keys

let isLooking = false;

async function lookForServer() {
  byId("gone").hidden = false;
  if (isLooking) return;
  isLooking = true;
  while (!await client.isThere()) await pause(1000 * LOOK_SECONDS);
  isLooking = false;
  byId("gone").hidden = true;
  announce("The server answers again");
  refreshRuns();
}

function isLocked() {
  return !byId("key-form").hidden;
}

/** Ask for the key. */
function lock(words = "") {
  client.key = null;
  storageOf("sessionStorage")?.removeItem(KEY);
  byId("key-form").hidden = false;
  byId("desk").hidden = true;
  byId("known").hidden = true;
  byId("key-problem").textContent = words;
  byId("key-problem").hidden = !words;
  byId("key").focus();
}

/** Try a key; if it is right, show the page. */
async function unlock(key) {
  client.key = key;
  try {
    cards = (await client.json("/v1/models")).data;
    remember(storageOf("sessionStorage"), KEY, key);
    byId("key").value = "";
    open();
  } catch (error) {
    lock(error.status === 401 ? "The key is wrong." : error.message);
  }
}

// ---------------------------------------------------------------- what is kept

const FIELDS = [
  "run", "beside", "seed", "stops", "start", "count", ...Object.values(NUMBERS),
];
let keepTimer = null;

/** Keep the page in the browser, soon. */
function keepPage() {
  clearTimeout(keepTimer);
  keepTimer = setTimeout(keepNow, KEEP_AFTER);
}

function keepNow() {
  clearTimeout(keepTimer);
  if (!isOpen) return;
  const fields = Object.fromEntries(FIELDS.map((id) => [id, byId(id).value]));
  const draft = isEditing ? byId("editor").value : null;
  if (!job) tree.prune();
  const colours = byId("colours").checked;
  const isKept = rememberPage({ tree, mode, fields, draft, lines, colours });
  if (!isKept) showProblem("The browser has no room to keep this text: download it.");
}

/** Return the settings to begin with; the text is put in place. */
function restore() {
  const saved = recallPage();
  if (!saved) return { fields: {}, mode: null, draft: null };
  tree = saved.tree;
  for (const [id, value] of Object.entries(saved.fields ?? {})) {
    if (FIELDS.includes(id) && typeof value === "string") byId(id).value = value;
  }
  byId("colours").checked = saved.colours === true;
  const isLine = (one) => typeof one?.text === "string" && typeof one.model === "string";
  lines = Array.isArray(saved.lines) ? saved.lines.filter(isLine) : [];
  return saved;
}

/** Forget all, when asked twice. */
function forget(button) {
  if (button.dataset.asked !== "yes") {
    button.dataset.asked = "yes";
    button.textContent = "Delete all branches? Press again";
    setTimeout(() => {
      button.dataset.asked = "";
      button.textContent = "Delete all";
    }, 4000);
    return;
  }
  stop();
  closeCandidates();
  tree = new Tree();
  byId("editor").value = "";
  isEditing = true;
  refresh();
}

// ---------------------------------------------------------------- the page

let isOpen = false;

/** Show the page. */
function open() {
  byId("key-form").hidden = true;
  byId("desk").hidden = false;
  byId("known").hidden = false;
  if (isOpen) {
    openLink();
    return;
  }
  const saved = restore();
  fillRuns(saved.fields ?? {});
  isOpen = true;
  byId("dials").open = isWide();
  refresh();
  if (typeof saved.draft === "string" && saved.draft !== byId("editor").value) {
    startEditing(0, false);
    byId("editor").value = saved.draft;
  }
  setMode(saved.mode ?? (isItems(modelOf("run")) ? "lines" : "text"));
  showKeptLines();
  showFavourites();
  openTab("training");
  showRun();
  showSliders();
  openLink();
  enable();
}

function setUp() {
  setUpTheme(byId("theme"));
  setUpTabs();
  byId("steps").append(...Array.from({ length: STEPS }, (_, step) =>
    element("span", { class: `hot w${step + 1}` })));
  const buttons = {
    continue: goOn,
    stop,
    undo: () => goBack(),
    redo: () => goBack(true),
    edit: () => (isEditing ? endEditing() : startEditing(looked ?? text.characters.length)),
    next: () => { if (!isEditing) look(text.characters.length, true); },
    keep: () => keepFavourite(seenText(), modelOf("run")),
    copy: () => copyText(seenText(), byId("copy")),
    link: () => copyLink(byId("link")),
    "link-lines": () => copyLink(byId("link-lines")),
    download: () => download(seenText(), "charlm.txt"),
    new: () => beginText(""),
    close: closeReadout,
    "stop-lines": stop,
    "download-all": downloadFavourites,
    inspect: inspectText,
    forget: () => forget(byId("forget")),
  };
  for (const [id, press] of Object.entries(buttons)) {
    byId(id).addEventListener("click", () => {
      if (byId(id).getAttribute("aria-disabled") !== "true") press();
    });
  }
  for (const [id, submit] of [
    ["settings", () => {}],
    ["lines-form", writeLines],
    ["key-form", () => unlock(byId("key").value)],
  ]) {
    byId(id).addEventListener("submit", (event) => {
      event.preventDefault();
      submit();
    });
  }
  for (const id of ["settings", "lines-form", "editor"]) {
    byId(id).addEventListener("input", () => {
      showSliders();
      clearTimeout(keepTimer);
      keepTimer = setTimeout(() => {
        sayNotice();
        enable();
        keepNow();
      }, KEEP_AFTER);
    });
  }
  for (const slider of sliders()) {
    slider.addEventListener("input", (event) => {
      byId(slider.dataset.for).value = slider.value;
      event.stopPropagation(); // the slider stays where it was moved to
      keepPage();
    });
  }
  for (const id of ["run", "beside"]) byId(id).addEventListener("change", () => {
    showRun();
    keepPage();
  });
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.addEventListener("change", () => setMode(radio.value));
  }
  byId("colours").addEventListener("change", () => {
    paint();
    colourRest();
    keepPage();
  });
  byId("editor").addEventListener("paste", paste);
  byId("branches").addEventListener("keydown", moveInBranches);
  byId("characters").addEventListener("dblclick", () => startEditing(looked ?? 0));
  document.addEventListener("keydown", press);
  addEventListener("hashchange", openLink);
  addEventListener("storage", ({ key }) => { if (key === FAVOURITES) showFavourites(); });
  addEventListener("pagehide", () => {
    stop();
    keepNow();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") keepNow();
    else watchTraining();
  });
}

/** Answer keys, wherever the focus is. A key of an input method is not ours. */
function press(event) {
  if (event.isComposing || event.keyCode === 229 || !isOpen || isLocked()) return;
  const isField = event.target.matches?.(
    "textarea, select, input:not([type=checkbox], [type=radio], [type=range])");
  const isCommand = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let answer = null;
  if (isCommand && key === "Enter") answer = mode === "lines" ? writeLines : goOn;
  else if (key === "Escape") answer = escape;
  else if (isField || mode === "lines" || event.altKey) return;
  else if (isCommand && key === "z") answer = () => goBack(event.shiftKey);
  else if (isCommand && key === "y") answer = () => goBack(true);
  else if (isCommand) return;
  else if (/^[1-9]$/.test(key) && candidates.length) answer = () => pick(Number(key) - 1);
  else if (event.target.id === "characters" && key === "Enter") {
    answer = () => look(offset + view.cursor, true);
  } else if (event.target.id === "characters" && (key === "e" || key === "F2")) {
    answer = () => startEditing(offset + view.cursor);
  }
  if (!answer) return;
  event.preventDefault();
  answer();
}

function escape() {
  if (job) stop();
  else if (looked !== null) {
    const isInside = byId("readout").contains(document.activeElement);
    closeReadout();
    if (isInside) byId("characters").focus();
  } else if (isEditing && document.activeElement === byId("editor")) endEditing();
}

setUp();
if (!data.key_required) open();
else {
  const kept = recall(storageOf("sessionStorage"), KEY);
  if (typeof kept === "string") unlock(kept);
  else lock();
}
