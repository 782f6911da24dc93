// Runs, settings, and links that stand for them.

const NUMBERS = { // fields by what the server calls them
  n: "n",
  max_tokens: "length",
  temperature: "temperature",
  top_k: "top-k",
  top_p: "top-p",
  min_p: "min-p",
};

// ---------------------------------------------------------------- settings

/** Return the settings as the server calls them; null if one is wrong, which the browser says. */
function readSettings() {
  const form = byId("settings");
  if (!form.checkValidity()) { // what is closed could not be shown
    byId("dials").open = true;
    byId("more").open = Boolean(byId("more").querySelector(":invalid")) || byId("more").open;
  }
  if (!form.reportValidity()) return null;
  const numbers = Object.entries(NUMBERS).map(([name, id]) => [name, Number(byId(id).value)]);
  const { value } = byId("seed");
  return {
    ...Object.fromEntries(numbers),
    seed: value === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(value),
    stop: stopsOf(byId("stops").value),
    colours: byId("colours").checked,
  };
}

function sliders() {
  return byId("settings").querySelectorAll("[type=range]");
}

/** Move the sliders to where their fields are. */
function showSliders() {
  for (const slider of sliders()) slider.value = byId(slider.dataset.for).value;
}

function showSeed(seed) {
  const isKept = byId("seed").value !== "";
  byId("same-seed").hidden = false;
  byId("same-seed").textContent = isKept ? "random again" : `keep ${seed}`;
  byId("same-seed").onclick = () => {
    byId("seed").value = isKept ? "" : seed;
    showSeed(seed);
    keepPage();
  };
}

function isWide() {
  return matchMedia("(min-width: 62rem)").matches;
}

function setMode(name) {
  stop();
  mode = name;
  byId("desk").querySelector(`[name=mode][value=${name}]`).checked = true;
  byId("text-mode").hidden = name === "lines";
  byId("lines-mode").hidden = name === "text";
  for (const one of document.querySelectorAll(".for-text")) one.hidden = name === "lines";
  document.querySelector(".branches-panel").hidden = name === "lines";
  if (name === "lines") closeReadout();
  keepPage();
}

// ---------------------------------------------------------------- links

/** Return a link to what the current text was written with. */
function linkOf() {
  const settings = readSettings();
  if (!settings) return null;
  if (mode === "lines") {
    const { n: _, stop: __, ...given } = settings;
    const lineFields = { lines: byId("count").value, prompt: byId("start").value };
    return address({ model: modelOf("run"), ...lineFields, ...given });
  }
  const { current } = tree;
  const { characters } = text;
  if (isEditing && changeOf(characters, byId("editor").value)) {
    return address({ model: modelOf("run"), prompt: byId("editor").value, ...settings });
  }
  if (current.about) {
    const { index: _, ...about } = current.about;
    const prompt = characters.slice(0, current.keep + current.given).join("");
    return address({ prompt, ...about });
  }
  return address({ model: modelOf("run"), prompt: characters.join(""), ...settings });
}

function address({ colours: _, ...fields }) {
  const fragment = fragmentOf(fields);
  if (fragment === null) {
    isSendable(`${fields.prompt}${fields.model}`);
    return null;
  }
  return `${location.origin}/#${fragment}`;
}

async function copyLink(button) {
  const link = linkOf();
  if (link === null) return;
  await copyText(link, button);
  announce("The link is copied");
  const shown = byId("link-shown");
  const isLong = link.length > LONG_LINK;
  shown.textContent = `The link has ${number(link.length)} characters: some programs cut it off.`;
  shown.hidden = !isLong;
}

/** Fill the page from the link that it was opened with, and take that from the address. */
function openLink() {
  const fields = isOpen && !isLocked() ? fieldsOf(location.hash) : null;
  if (!fields) return;
  history.replaceState(null, "", location.pathname);
  const wrong = [];
  const put = (id, value) => {
    const before = byId(id).value;
    byId(id).value = value;
    if (byId(id).value === "" ? value !== "" : !byId(id).checkValidity()) {
      byId(id).value = before;
      wrong.push(id);
    }
  };
  for (const [name, id] of Object.entries(NUMBERS)) if (name in fields) put(id, fields[name][0]);
  put("seed", fields.seed?.[0] ?? "");
  byId("stops").value = (fields.stop ?? []).map(lineOfStop).join("\n");
  const [model] = fields.model ?? [];
  if (cards.some(({ id }) => id === model)) byId("run").value = model;
  else if (model !== undefined) {
    wrong.push(`the run ${visibleText(model)}, which is not served here`);
  }
  const isLines = "lines" in fields;
  setMode(isLines ? "lines" : "text");
  const [prompt] = fields.prompt ?? [""];
  if (isLines) {
    put("count", fields.lines[0]);
    byId("start").value = prompt;
  } else if (prompt !== text.characters.join("")) beginText(prompt);
  showRun();
  showSliders();
  say("Opened from a link: Continue writes the text that it stands for.");
  if (wrong.length) showProblem(`Not taken from the link: ${wrong.join(", ")}.`);
}

// ---------------------------------------------------------------- runs

function card(model) {
  return cards.find(({ id }) => id === model)?.charlm ?? {};
}

function isItems(model) {
  return Boolean(card(model).items);
}

function modelOf(id) {
  return byId(id).value;
}

/** Return the names of the runs that are to write: one, or two beside each other. */
function chosenRuns() {
  const [first, second] = [modelOf("run"), modelOf("beside")];
  return second && second !== first ? [first, second] : [first];
}

function fillRuns(saved) {
  const options = () => cards.map(({ id }) => element("option", { value: id }, visibleText(id)));
  byId("run").replaceChildren(...options());
  byId("beside").replaceChildren(element("option", { value: "" }, "none"), ...options());
  byId("beside-choice").hidden = cards.length < 2;
  const names = cards.map(({ id }) => id);
  byId("run").value = names.includes(saved.run) ? saved.run : names[0];
  byId("beside").value = names.includes(saved.beside) ? saved.beside : "";
}

/** Ask anew which runs are served: the server may be another one than before. */
async function refreshRuns() {
  try {
    cards = (await client.json("/v1/models")).data;
    fillRuns({ run: modelOf("run"), beside: modelOf("beside") });
    showRun();
  } catch { // it is gone again, or asks for a key: both are said
  }
}

/** Show what the chosen run is. */
function showRun() {
  const model = modelOf("run");
  const own = card(model);
  document.title = `${visibleText(model)}: charlm`;
  byId("title").textContent = visibleText(model);
  const loss = own.validation_loss;
  const known = [
    own.backbone && layersOf(own),
    own.parameters && `${number(own.parameters)} parameters`,
    own.vocabulary && `${number(Array.from(own.vocabulary).length)} symbols`,
    own.exact && "whole numbers",
    own.files?.length && `trained on ${visibleText(own.files.join(", "))} `
      + `(${characterCount(own.characters)})`,
    Number.isFinite(loss) && `validation loss ${number(loss, 3)}`,
  ].filter((words) => words);
  const state = own.ready ? "" : "Its training has begun: there is no model yet.";
  byId("facts").textContent = [known.join(", "), state].filter((words) => words).join(". ");
  byId("vocabulary").textContent = Array.from(own.vocabulary ?? "", nameOf).join(" ");
  sayNotice();
  watchTraining();
}

/** Take over what a look at a training has told of its run. */
function updateFacts(model, found) {
  const own = card(model);
  const isNew = !own.ready && found.sample !== null;
  const isSame = number(own.validation_loss, 5) === number(found.validation_loss, 5);
  if (isSame && !isNew) return;
  Object.assign(own, { ...found, ready: own.ready || found.sample !== null });
  showRun.timer ??= setTimeout(() => { // not at once: it looks at the training again
    showRun.timer = null;
    showRun();
  }, 1000);
}
