// Lines: names, titles, anything that a model writes one a line.

const MOST_LINES_KEPT = 500;

let lines = []; // what is shown: {model, text, isWhole}

/** Write lines by all runs that are chosen. */
function writeLines() {
  if (job) return;
  const form = byId("lines-form");
  const settings = form.reportValidity() ? readSettings() : null;
  if (!settings) return;
  const start = byId("start").value;
  if (!isSendable(start)) return;
  const asks = chosenRuns().map((model) => {
    const { colours, ...given } = { ...settings, n: Number(byId("count").value), stop: ["\n"] };
    return {
      model,
      about: { model, ...given },
      body: {
        model,
        prompt: isItems(model) ? start : `\n${start}`, // an item begins a line by itself
        stream: true,
        ...given,
        logprobs: colours ? 0 : undefined,
      },
      targets: Array.from({ length: given.n }, () => new Drawn()),
    };
  });
  const lists = asks.map((ask) => linesList(ask.model, asks.length > 1));
  byId("lines").replaceChildren(...lists.map(({ box }) => box));
  const onShow = () => asks.forEach(({ targets }, i) =>
    targets.forEach((drawn, place) => showLine(lists[i], place, start, drawn)));
  const onEnd = () => {
    lines = asks.flatMap((ask) => ask.targets
      .filter((drawn) => drawn.text)
      .map((drawn) => ({ model: ask.model, text: start + drawn.text, isWhole: isWhole(drawn) })))
      .slice(0, MOST_LINES_KEPT);
  };
  const amount = () => {
    const all = asks.flatMap(({ targets }) => targets);
    const written = all.filter(({ count }) => count).length;
    const empty = all.filter((drawn) => isWhole(drawn) && !drawn.count).length;
    return lineCount(written) + (empty ? ` (and ${empty} empty, left out)` : "");
  };
  run(asks, onShow, onEnd, amount);
}

function lineCount(count) {
  return count === 1 ? "1 line" : `${number(count)} lines`;
}

function isWhole({ reason }) {
  return reason === "stop";
}

/** Return a list that fills as its lines are drawn. */
function linesList(model, isNamed) {
  const list = element("ol", { class: "lines" });
  const title = element("h3", {}, visibleText(model));
  const name = `Lines of ${visibleText(model)}`;
  const box = element("section", { class: "line-list", "aria-label": name },
    isNamed ? title : null, list);
  return { model, list, box, rows: new Map() };
}

/** Show a line as far as it is drawn; one that stays empty is not shown. */
function showLine(own, place, start, drawn) {
  if (!drawn.count) return;
  let row = own.rows.get(place);
  if (!row) {
    row = lineRow(own.model, start, () => start + drawn.text);
    own.rows.set(place, row);
    const after = Array.from(own.rows.keys()).filter((one) => one > place);
    const next = after.length ? own.rows.get(Math.min(...after)).box : null;
    own.list.insertBefore(row.box, next);
  }
  appendColoured(row, drawn);
  const mean = drawn.mean === null ? "" : `${number(drawn.mean, 2)} bits each`;
  row.said.textContent = drawn.reason && !isWhole(drawn) ? `${mean} cut off` : mean;
}

/** Return the row of a line; read() returns the line. */
function lineRow(model, start, read) {
  const body = element("span", { class: "characters written", dir: "auto" });
  const line = body.appendChild(element("span", { class: "line" }));
  for (const character of start) {
    const span = characterElement(character);
    span.classList.add("prompt");
    line.append(span);
  }
  const said = element("span", { class: "soft" });
  const box = element("li", {}, body, element("span", { class: "line-tools" },
    said,
    element("button", { type: "button", click: () => keepFavourite(read(), model) }, "Keep"),
    element("button", { type: "button", click: () => takeLine(read()) }, "Use")));
  return { box, body, line, said, shown: 0 };
}

/** Begin a text with a line. */
function takeLine(line) {
  setMode("text");
  beginText(line);
  byId("characters").focus();
}

/** Show the lines that were there when the page was left. */
function showKeptLines() {
  const models = Array.from(new Set(lines.map(({ model }) => model)));
  byId("lines").replaceChildren(...models.map((model) => {
    const { box, list } = linesList(model, models.length > 1);
    for (const { text: line, isWhole: isEnded } of lines.filter((one) => one.model === model)) {
      const row = lineRow(model, "", () => line);
      row.line.append(...Array.from(line, characterElement));
      row.said.textContent = isEnded ? "" : "cut off";
      list.append(row.box);
    }
    return box;
  }));
}
