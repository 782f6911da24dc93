// Beside and below the text: branches, favourites, the training, the inside of the model.

const EXCERPT = 60; // characters of a step that its row shows
const POLL_SECONDS = 3; // between two looks at a training
const POLL_FINISHED = 20;
const STALE_SECONDS = 600; // since a checkpoint was saved, after which a training may have stopped
const LONGEST_INSPECTED = 20_000;

// ---------------------------------------------------------------- branches

/** Show the steps of the text; those after a step that has several are moved in. */
function showBranches() {
  const list = byId("branches");
  const hadFocus = list.contains(document.activeElement);
  const path = new Set(tree.path(tree.current));
  const children = new Map();
  for (const node of tree.nodes.values()) {
    const before = children.get(node.parent) ?? [];
    if (node.parent !== null) children.set(node.parent, [...before, node]);
  }
  const rows = [];
  const waiting = [{ node: tree.path(tree.current)[0], level: 1 }];
  while (waiting.length) {
    const { node, level } = waiting.pop();
    rows.push(branchRow(node, level, path.has(node)));
    const after = children.get(node.id) ?? [];
    const inside = after.length > 1 ? level + 1 : level;
    waiting.push(...after.reverse().map((child) => ({ node: child, level: inside })));
  }
  list.replaceChildren(...rows);
  const current = list.querySelector("[aria-selected=true]");
  current.tabIndex = 0;
  reveal(list, current);
  if (hadFocus) current.focus({ preventScroll: true });
}

function branchRow(node, level, isOnPath) {
  const row = element("li", {
    role: "treeitem",
    "aria-level": level,
    "aria-selected": node === tree.current ? "true" : "false",
    "data-node": node.id,
    class: isOnPath ? "on-path" : null,
    tabindex: -1,
    click: () => goTo(node),
  },
  element("span", { class: "who" }, whoWrote(node)),
  element("span", { class: "excerpt" }, excerptOf(node)));
  row.style.setProperty("--level", Math.min(level, 9) - 1);
  return row;
}

function whoWrote({ kind, about }) {
  if (kind === "start") return "start";
  if (kind === "typed") return "typed";
  return kind === "chosen" ? "chosen" : visibleText(about?.model ?? "written");
}

function excerptOf({ kind, text: own }) {
  if (kind === "start") return "an empty text";
  const first = Array.from(own.slice(0, 2 * EXCERPT));
  return first.length ? visibleText(first.slice(0, EXCERPT).join("")) : "cut off here";
}

/** Scroll a box, and nothing else, to one of its rows. */
function reveal(box, row) {
  const top = row.offsetTop - box.offsetTop;
  if (top < box.scrollTop) box.scrollTop = top;
  const below = top + row.offsetHeight - box.clientHeight;
  if (below > box.scrollTop) box.scrollTop = below;
}

/** Go to a step of the text. */
function goTo(node) {
  stop();
  endEditing();
  if (!tree.nodes.has(node.id)) return;
  closeCandidates();
  tree.go(node);
  refresh();
}

function moveInBranches(event) {
  const rows = Array.from(byId("branches").children);
  const at = rows.indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
  const level = (row) => Number(row.getAttribute("aria-level"));
  const moves = {
    ArrowDown: () => rows[at + 1],
    ArrowUp: () => rows[at - 1],
    ArrowLeft: () => rows.slice(0, at).findLast((row) => level(row) < level(rows[at])),
    ArrowRight: () => rows[at + 1],
    Home: () => rows[0],
    End: () => rows.at(-1),
  };
  if (event.key in moves) {
    const row = moves[event.key]();
    if (row) {
      rows[at].tabIndex = -1;
      row.tabIndex = 0;
      row.focus({ preventScroll: true });
      reveal(byId("branches"), row);
    }
  } else if (event.key === "Enter" || event.key === " ") {
    goTo(tree.nodes.get(Number(rows[at].dataset.node)));
  } else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- favourites

function keepFavourite(kept, model) {
  if (!kept) return;
  const list = [{ text: kept, model, time: Date.now() }, ...recallFavourites()];
  if (list.length > MOST_FAVOURITES) {
    showProblem(`${MOST_FAVOURITES} favourites are kept already: remove one first.`);
  } else if (!rememberFavourites(list)) {
    showProblem("The browser has no room for another favourite: download some and remove them.");
  } else {
    announce("Kept as a favourite");
    byId("tab-favourites").classList.add("new");
    setTimeout(() => byId("tab-favourites").classList.remove("new"), 1500);
  }
  showFavourites();
}

function showFavourites() {
  const list = recallFavourites();
  byId("tab-favourites").textContent = list.length ? `Favourites (${list.length})` : "Favourites";
  byId("no-favourites").hidden = list.length > 0;
  byId("download-all").hidden = list.length === 0;
  byId("favourite-list").replaceChildren(...list.map((one) => {
    const body = element("div", { class: "excerpt", dir: "auto" }, readable(one.text));
    const button = (name, click) => element("button", { type: "button", click }, name);
    return element("li", {},
      body,
      element("div", { class: "buttons" },
        element("span", { class: "soft" },
          `${visibleText(one.model)}, ${characterCount(Array.from(one.text).length)}`),
        button("Open", () => {
          setMode("text");
          beginText(one.text);
          byId("desk").scrollIntoView();
          byId("characters").focus();
        }),
        button("Download", () => download(one.text, "charlm.txt")),
        button("Remove", () => removeFavourite(one))));
  }));
}

/** Remove a favourite, and offer to put it back. */
function removeFavourite(one) {
  const list = recallFavourites();
  const place = list.findIndex((other) => other.time === one.time && other.text === one.text);
  if (place >= 0) list.splice(place, 1);
  rememberFavourites(list);
  showFavourites();
  const back = element("button", {
    type: "button",
    click: () => {
      const now = recallFavourites();
      now.splice(place, 0, one);
      rememberFavourites(now);
      byId("favourites-said").textContent = "";
      showFavourites();
      byId("favourites").focus();
    },
  }, "Put back");
  byId("favourites-said").replaceChildren("Removed. ", back);
  back.focus();
}

function downloadFavourites() {
  const rule = `\n\n${"—".repeat(20)}\n\n`;
  download(recallFavourites().map((one) => one.text).join(rule), "charlm-favourites.txt");
}

/** Return a text as it can be read: line ends and tabs as they are, other controls as symbols. */
function readable(whole) {
  return Array.from(whole, (sign) => ("\n\t".includes(sign) ? sign : visible(sign))).join("");
}

// ---------------------------------------------------------------- the training

let trainingTimer = null;
let shownCurve = "";

/** Show how the training of the chosen run goes, as long as its panel is open. */
async function watchTraining() {
  clearTimeout(trainingTimer);
  const model = modelOf("run");
  const isWanted = !byId("training").hidden || !card(model).ready; // a first model is waited for
  if (!isWanted || document.visibilityState !== "visible" || isLocked()) return;
  let seconds = POLL_SECONDS;
  try {
    const found = await client.json(`/v1/runs/${encodeURIComponent(model)}`);
    if (model !== modelOf("run")) return;
    showTraining(found);
    updateFacts(model, found);
    if (found.finished) seconds = POLL_FINISHED;
    byId("training-problem").hidden = true;
  } catch (error) {
    if (model !== modelOf("run")) return;
    byId("training-problem").textContent = error.message;
    byId("training-problem").hidden = false;
  }
  clearTimeout(trainingTimer);
  trainingTimer = setTimeout(watchTraining, 1000 * seconds);
}

function showTraining(run) {
  byId("training-state").textContent = trainingWords(run);
  const isStale = !run.finished && run.saved_seconds_ago > STALE_SECONDS;
  const saved = run.saved_seconds_ago === undefined
    ? ""
    : `Saved ${duration(run.saved_seconds_ago)} ago.`;
  const stale = " The training may have been stopped: “charlm resume” goes on with it.";
  byId("training-saved").textContent = run.finished ? "" : saved + (isStale ? stale : "");
  showCurve(run);
  byId("training-sample-part").hidden = run.sample === null;
  byId("training-sample").textContent = readable(run.sample ?? "");
  byId("training-settings").hidden = !run.settings;
  if (run.settings && byId("training-settings").dataset.of !== JSON.stringify(run.settings)) {
    byId("training-settings").dataset.of = JSON.stringify(run.settings);
    byId("training-table").replaceChildren(table({
      caption: "As they were used",
      columns: [{ name: "setting" }, { name: "value" }],
      rows: Object.entries(run.settings).map(([name, value]) =>
        [name, visibleText(typeof value === "string" ? value : JSON.stringify(value))]),
    }));
  }
}

function trainingWords(run) {
  if (run.step === undefined) return "The training has begun: there is no model yet.";
  const pace = run.chars_per_second ? `, ${number(run.chars_per_second)} characters a second` : "";
  const loss = run.validation_loss ?? Infinity;
  const best = Number.isFinite(loss)
    ? ` Validation loss ${number(loss, 3)} nats per character.`
    : "";
  if (run.finished) {
    return `Finished: ${number(run.step)} steps in ${duration(run.seconds)}${pace}.${best}`;
  }
  const of = run.steps ? ` of ${number(run.steps)}` : "";
  const left = run.seconds_left === null ? "" : `, about ${duration(run.seconds_left)} left`;
  return `In training: step ${number(run.step)}${of}${pace}${left}.${best}`;
}

function showCurve({ id, evaluations }) {
  const last = evaluations.at(-1);
  const now = JSON.stringify([id, evaluations.length, last?.step]);
  if (now === shownCurve) return;
  shownCurve = now;
  const box = byId("training-chart");
  const hadFocus = box.contains(document.activeElement);
  const curve = (name, field) => ({
    name,
    x: evaluations.map(({ step }) => step),
    y: evaluations.map((one) => one[field]),
    kind: evaluations.length === 1 ? "dots" : "line", // one point has no line
  });
  box.replaceChildren(evaluations.length
    ? chart({
      title: "Loss",
      curves: [curve("training", "train_loss"), curve("validation", "validation_loss")],
      x: { label: "steps", format: (value) => number(value) },
      y: { label: "nats per character", format: (value) => number(value, 3) },
    })
    : element("p", { class: "left-out" }, "There is no evaluation yet."));
  if (hadFocus) box.querySelector("svg.plot")?.focus();
}

/** Return a time in words. */
function duration(seconds) {
  if (seconds < 1) return "1 s";
  if (seconds < 100) return `${number(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

// ---------------------------------------------------------------- inside the model

/** Show the page of an inspection of the text, in a frame that can reach nothing of this one. */
async function inspectText() {
  if (byId("inside").getAttribute("aria-busy") === "true") return;
  const all = Array.from(seenText());
  const part = all.slice(-LONGEST_INSPECTED).join("");
  const problem = byId("inspect-problem");
  const tell = (words) => {
    problem.textContent = words;
    problem.hidden = !words;
  };
  if (!part) return tell("There is no text yet: write one first.");
  if (placeOfHalf(part) >= 0) return tell(halfWords(placeOfHalf(part)));
  tell("");
  const model = modelOf("run");
  byId("inside").setAttribute("aria-busy", "true");
  setEnabled("inspect", false);
  byId("inspect-status").textContent = "The model reads the text. This takes some seconds …";
  try {
    const { url } = await client.json("/v1/inspect", { model, text: part });
    const isPart = all.length > LONGEST_INSPECTED;
    byId("inspect-status").textContent = `${visibleText(model)} on ${isPart ? "the last " : ""}`
      + characterCount(Math.min(all.length, LONGEST_INSPECTED));
    byId("inspection").replaceChildren(element("iframe", {
      sandbox: "allow-scripts", title: "How the model reads the text", src: url,
    }));
  } catch (error) {
    byId("inspect-status").textContent = "";
    tell(error.message);
  } finally {
    byId("inside").removeAttribute("aria-busy");
    setEnabled("inspect", true);
  }
  return undefined;
}

// ---------------------------------------------------------------- tabs

const TABS = ["favourites", "training", "inside", "help"];

function openTab(name) {
  for (const one of TABS) {
    const isOpen = one === name;
    byId(one).hidden = !isOpen;
    byId(`tab-${one}`).setAttribute("aria-selected", isOpen);
    byId(`tab-${one}`).tabIndex = isOpen ? 0 : -1;
  }
  watchTraining();
}

function setUpTabs() {
  for (const name of TABS) {
    byId(`tab-${name}`).addEventListener("click", () => openTab(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = TABS[(TABS.indexOf(name) + step + TABS.length) % TABS.length];
      openTab(next);
      byId(`tab-${next}`).focus();
    });
  }
}
