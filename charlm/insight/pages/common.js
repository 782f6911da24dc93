"use strict";

// Shared by all pages: the data, elements, names of characters, numbers, charts.
//
// Text of the user reaches the page through textContent and append() only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

// ---------------------------------------------------------------- the data of the page

/** Return the data of the page. See pack() of page.py for the form of packed arrays. */
function readData() {
  return unpack(JSON.parse(document.getElementById("data").textContent));
}

/** Return a value with every packed array in it as a typed array with its shape. */
function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (typeof value.packed === "string") return unpackArray(value);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, unpack(item)]));
}

const READERS = {
  uint4: (view, i) => (view.getUint8(i >> 1) >> (i & 1 ? 4 : 0)) & 15,
  uint8: (view, i) => view.getUint8(i),
  int8: (view, i) => view.getInt8(i),
  uint16: (view, i) => view.getUint16(2 * i, true),
  int16: (view, i) => view.getInt16(2 * i, true),
  uint32: (view, i) => view.getUint32(4 * i, true),
  int32: (view, i) => view.getInt32(4 * i, true),
};

/** Return one packed array, row by row, with its shape as the property `shape`. */
function unpackArray({ packed, type, shape, low, step }) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const values = new Float64Array(shape.reduce((product, size) => product * size, 1));
  const read = READERS[type];
  for (let i = 0; i < values.length; i++) values[i] = low + step * read(view, i);
  values.shape = shape;
  return values;
}

/** Return the layers of a model in a few words. */
function layersOf({ backbone, num_layers: layers, hidden_size: units, attention }) {
  const size = `${backbone}, ${layers} × ${units} units`;
  return attention ? `${size}, attention over ${number(attention)} characters` : size;
}

// ---------------------------------------------------------------- elements

/** Return a new element. Functions become listeners, strings become text. */
function element(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Return a new SVG element, as element() does. */
function shape(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/**
 * Return a table in a box that scrolls sideways.
 *
 * A cell is a text, an element, a list of both, or wide().
 */
function table({ caption, columns, rows, tall = false }) {
  const cell = (value, index) => {
    const { content, span } = value?.span ? value : { content: value, span: null };
    const numeric = columns[index]?.number && !span ? "number" : null;
    const scope = index === 0 ? "row" : null;
    return element(scope ? "th" : "td", { scope, class: numeric, colspan: span }, content);
  };
  const heads = columns.map((column) =>
    element("th", { scope: "col", class: column.number ? "number" : null }, column.name));
  return element("div",
    { class: tall ? "scroll tall" : "scroll", tabindex: 0, role: "group", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, heads)),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map(cell))))));
}

/** Return a cell of table() that goes over several columns. */
function wide(content, span) {
  return { content, span };
}

/** Return a section that opens on demand; its content is made when it is opened first. */
function openable(summary, makeContent) {
  const details = element("details", {}, element("summary", {}, summary));
  details.addEventListener("toggle", () => details.append(makeContent()), { once: true });
  return details;
}

// ---------------------------------------------------------------- characters and numbers

// Characters that show nothing, or that would change how their neighbours are shown.
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{DI}]/u;
const NAMES = { " ": "space", "\n": "line end", "\t": "tab", "\r": "carriage return" };

/** Return a character as it can be seen: what shows nothing as U+XXXX. */
function visible(character) {
  if (character === "\n") return "↵";
  if (character === "\t") return "⇥";
  return HIDDEN.test(character) ? codeOf(character) : character;
}

/** Return a character as it stands in a list: a space has a name, a mark something to sit on. */
function nameOf(character) {
  if (character in NAMES) return NAMES[character];
  if (/\p{Zs}/u.test(character)) return codeOf(character);
  const seen = visible(character);
  return seen === character && /\p{M}/u.test(character) ? `◌${character}` : seen;
}

function codeOf(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Return a text whose control characters can be seen, for names and excerpts. */
function visibleText(text) {
  return Array.from(text, visible).join("");
}

/** Return a number with separators and a fixed number of decimals. */
function number(value, decimals = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en-US",
    { minimumFractionDigits: decimals, maximumFractionDigits: decimals, signDisplay: "negative" })
    .replace("-", "−");
}

/** Return a number with about three digits that count, in powers of ten where it is tiny. */
function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001 || size >= 1e7) {
    const [digits, power] = value.toExponential(1).split("e");
    return `${digits.replace("-", "−").replace(".0", "")}·10${superscript(Number(power))}`;
  }
  return number(value, Math.max(0, 2 - Math.floor(Math.log10(size))))
    .replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

function superscript(whole) {
  return Array.from(String(whole), (sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("");
}

/** Return a share as a percentage with as many digits as it needs. */
function percent(share) {
  if (share > 0 && share < 0.0001) return "< 0.01\u00a0%";
  return `${number(100 * share, share < 0.001 ? 2 : 1)}\u00a0%`;
}

/** Return a share as a percentage in prose, without zeros at its end. */
function shortPercent(share) {
  return `${short(100 * share)}\u00a0%`;
}

// ---------------------------------------------------------------- charts

/**
 * Return a figure with a chart, its legend, a line that reads out one point, and a table.
 *
 * Pointer and arrow keys move to a point: left and right along a curve, up and down between
 * curves, Enter chooses it. The chart is drawn anew when its width changes.
 *
 * title   what the chart shows
 * x, y    axes {label, log, low, high, format}; low and high widen what the values span; format
 *         writes a value that is read out
 * curves  [{name, x, y, error, kind, dashed, colour, labels}]: kind is "line" (if none is given)
 *         or "dots"; error is the half width of a band; labels names each point;
 *         colour is a number from 0 to 7 (if none is given, that of the curve)
 * marks   [{x or y, label, row}]: a line across the chart, with its label below it, or beside it
 *         in a row from 0 on;
 *         or [{from: [x, y], to: [x, y]}]
 * square  as high as wide
 * choose  is called with (curve, index) on click or Enter
 */
function chart(options) {
  const { title, curves, x, y, choose } = options;
  curves.forEach((curve, index) => { curve.colour ??= index % 8; });
  const output = element("output", { "aria-live": "polite" });
  const svg = shape("svg", {
    class: "plot",
    tabindex: 0,
    role: "application",
    "aria-label": `${title}. ${y.label} against ${x.label}. The arrow keys read out the points.`,
  });
  const state = { curve: 0, index: -1, places: [] };
  const show = (curve, index) => {
    if (!state.places[curve]?.length) return;
    state.curve = curve;
    state.index = Math.max(0, Math.min(index, state.places[curve].length - 1));
    const point = state.places[curve][state.index];
    fill(state.ring, { cx: point.left, cy: point.top, visibility: "visible" }, []);
    output.textContent = describe(curves[curve], point.index, x, y);
  };
  const draw = (width) => {
    state.places = drawChart(svg, options, width);
    state.ring = shape("circle", { class: "chosen", r: 5, visibility: "hidden" });
    svg.append(state.ring);
    if (state.index >= 0) show(state.curve, state.index);
  };
  listen(svg, state, show, (curve, place) => choose?.(curve, place.index));
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== drawn) draw((drawn = width));
  }).observe(svg);
  return element("figure", { class: "chart" },
    element("figcaption", {}, title),
    curves.length > 1 ? legend(curves) : null,
    svg,
    output,
    openable("The figures as a table", () => chartTable(options)));
}

function describe(curve, index, x, y) {
  const label = curve.labels?.[index] ?? curve.name;
  const error = curve.error ? ` ± ${short(curve.error[index])}` : "";
  const format = (axis, value) => (axis.format ?? short)(value);
  return `${label}: ${x.label} ${format(x, curve.x[index])}, `
    + `${y.label} ${format(y, curve.y[index])}${error}`;
}

/** Move through the points of a chart by pointer and keys. */
function listen(svg, state, show, choose) {
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    let best = null;
    state.places.forEach((points, curve) => points.forEach((point, index) => {
      const far = (point.left - event.clientX + box.left) ** 2
        + (point.top - event.clientY + box.top) ** 2;
      if (best === null || far < best.far) best = { far, curve, index };
    }));
    if (best) show(best.curve, best.index);
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("click", (event) => {
    nearest(event);
    const point = state.places[state.curve]?.[state.index];
    if (point) choose(state.curve, point);
  });
  svg.addEventListener("focus", () => show(state.curve, Math.max(0, state.index)));
  svg.addEventListener("keydown", (event) => {
    const count = state.places.length;
    const left = state.places[state.curve]?.[state.index]?.left ?? 0;
    const other = (step) => {
      const curve = (state.curve + step + count) % count;
      const gaps = state.places[curve].map((point) => Math.abs(point.left - left));
      show(curve, gaps.indexOf(Math.min(...gaps)));
    };
    const moves = {
      ArrowLeft: () => show(state.curve, state.index - 1),
      ArrowRight: () => show(state.curve, state.index + 1),
      ArrowUp: () => other(-1),
      ArrowDown: () => other(1),
      Home: () => show(state.curve, 0),
      End: () => show(state.curve, Infinity),
      Enter: () => state.index >= 0 && choose(state.curve, state.places[state.curve][state.index]),
    };
    if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  });
}

function legend(curves) {
  return element("ul", { class: "legend" }, curves.map((curve) =>
    element("li", { class: `series${curve.colour}` },
      shape("svg", { "aria-hidden": "true", viewBox: "0 0 30 10" },
        curve.kind === "dots"
          ? shape("circle", { class: "dot", cx: 15, cy: 5, r: 4 })
          : shape("line", { class: lineClass(curve), x1: 0, x2: 30, y1: 5, y2: 5 })),
      curve.name)));
}

function lineClass(curve) {
  return curve.dashed ? "line dashed" : "line";
}

/** Return the table of a chart: a row for each x that a curve has, a column for each curve. */
function chartTable({ title, x, y, curves }) {
  const format = (axis, value) => (axis.format ?? short)(value);
  if (curves.some((curve) => curve.kind === "dots")) {
    const rows = curves.flatMap((curve) => Array.from(curve.x, (value, index) =>
      [curve.labels?.[index] ?? curve.name, format(x, value), format(y, curve.y[index])]));
    const columns = [
      { name: "point" }, { name: x.label, number: true }, { name: y.label, number: true },
    ];
    return table({ caption: title, columns, rows, tall: true });
  }
  const found = curves.map((curve) =>
    new Map(Array.from(curve.x, (value, index) => [value, index])));
  const values = [...new Set(curves.flatMap((curve) => Array.from(curve.x)))];
  values.sort((a, b) => a - b);
  const cell = (curve, index) => {
    if (index === undefined || curve.y[index] === null) return "";
    const error = curve.error ? ` ± ${short(curve.error[index])}` : "";
    return format(y, curve.y[index]) + error;
  };
  const rows = values.map((value) =>
    [format(x, value), ...curves.map((curve, i) => cell(curve, found[i].get(value)))]);
  const columns = [{ name: x.label }, ...curves.map(({ name }) => ({ name, number: true }))];
  return table({ caption: `${title}: ${y.label}`, columns, rows, tall: true });
}

/** Draw a chart and return where its points are: for each curve [{left, top, index}]. */
function drawChart(svg, options, width) {
  const { x, y, curves, marks = [], square = false } = options;
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const box = { left: 3.6 * rem, right: width - 1.5 * rem, top: 0.6 * rem };
  const height = square ? width : Math.min(20 * rem, Math.max(14 * rem, 0.55 * width));
  box.bottom = height - 3.1 * rem;
  const xs = scale(x, curves.flatMap((c) => Array.from(c.x)), box.left, box.right, 4.5 * rem);
  const ys = scale(y, curves.flatMap((c) => spread(c)), box.bottom, box.top, 2.6 * rem);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren(...axes(x, y, xs, ys, box, rem, height),
    ...marks.flatMap((mark) => drawMark(mark, xs, ys, box, rem)));
  return curves.map((curve) => {
    const points = Array.from(curve.x, (value, index) =>
      ({ left: xs.of(value), top: ys.of(curve.y[index]), index }))
      .filter(({ left, top }) => Number.isFinite(left) && Number.isFinite(top));
    svg.append(...drawCurve(curve, points, ys, box, width));
    return points;
  });
}

/** Return the values of a curve that its axis has to hold, with its band. */
function spread({ y, error }) {
  const values = Array.from(y).filter((value) => value !== null);
  if (!error) return values;
  return Array.from(y).flatMap((value, i) => [value - error[i], value + error[i]]);
}

function drawCurve(curve, points, ys, box, width) {
  const group = shape("g", { class: `series${curve.colour}` });
  const path = (list) => list.map(([left, top]) => `${left.toFixed(1)},${top.toFixed(1)}`);
  if (curve.error) {
    const edge = (sign) => points.map(({ left, index }) => {
      const top = ys.of(curve.y[index] + sign * curve.error[index]);
      return [left, Number.isFinite(top) ? top : box.bottom];
    });
    const outline = path([...edge(1), ...edge(-1).reverse()]).join(" ");
    group.append(shape("polygon", { class: "band", points: outline }));
  }
  if (curve.kind === "dots") {
    const r = Math.max(2, Math.min(4, width / 90));
    group.append(...points.map(({ left, top }) =>
      shape("circle", { class: "dot", cx: left.toFixed(1), cy: top.toFixed(1), r })));
  } else if (points.length) {
    const line = path(points.map(({ left, top }) => [left, top])).join(" ");
    group.append(shape("polyline", { class: lineClass(curve), points: line }));
  }
  return [group];
}

function drawMark(mark, xs, ys, box, rem) {
  if (mark.from) {
    const [[x1, x2], [y1, y2]] = [0, 1].map((i) =>
      [mark.from[i], mark.to[i]].map((i ? ys : xs).of));
    return [shape("line", { class: "mark", x1, x2, y1, y2 })];
  }
  const across = mark.x === undefined;
  const at = across ? ys.of(mark.y) : xs.of(mark.x);
  if (!Number.isFinite(at)) return [];
  const line = across
    ? { x1: box.left, x2: box.right, y1: at, y2: at }
    : { x1: at, x2: at, y1: box.top, y2: box.bottom };
  const late = !across && at > (box.left + box.right) / 2;
  const label = across
    ? { x: box.right, y: at + 1.05 * rem, "text-anchor": "end" }
    : { x: at + (late ? -0.35 : 0.35) * rem, y: box.top + (0.8 + 1.2 * (mark.row ?? 0)) * rem,
        "text-anchor": late ? "end" : "start" };
  return [shape("line", { class: "mark", ...line }), shape("text", label, mark.label ?? "")];
}

function axes(x, y, xs, ys, box, rem, height) {
  const middle = (box.left + box.right) / 2;
  const half = (box.top + box.bottom) / 2;
  return [
    ...ys.ticks.map((tick) => shape("line",
      { class: "grid", x1: box.left, x2: box.right, y1: ys.of(tick), y2: ys.of(tick) })),
    ...ys.ticks.map((tick) => shape("text",
      { x: box.left - 0.5 * rem, y: ys.of(tick) + 0.28 * rem, "text-anchor": "end" },
      tickText(y, tick))),
    ...xs.ticks.map((tick) => shape("line",
      { class: "frame", x1: xs.of(tick), x2: xs.of(tick), y1: box.bottom,
        y2: box.bottom + 0.3 * rem })),
    ...xs.ticks.map((tick) => shape("text",
      { x: xs.of(tick), y: box.bottom + 1.2 * rem, "text-anchor": "middle" },
      tickText(x, tick))),
    shape("line",
      { class: "frame", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    shape("text", { x: middle, y: height - 0.5 * rem, "text-anchor": "middle" }, x.label),
    shape("text",
      { transform: `translate(${0.8 * rem} ${half}) rotate(-90)`, "text-anchor": "middle" },
      y.label),
  ];
}

function tickText(axis, tick) {
  if (axis.log && (tick < 0.001 || tick >= 1e6) && Number.isInteger(Math.log10(tick))) {
    return `10${superscript(Math.log10(tick))}`;
  }
  return short(tick);
}

/** Return where a value lies between two ends of an axis, and the values that get a tick. */
function scale(axis, values, start, end, room) {
  const usable = values.filter((value) => Number.isFinite(value) && (!axis.log || value > 0));
  if (axis.low !== undefined) usable.push(axis.low);
  if (axis.high !== undefined) usable.push(axis.high);
  let low = usable.reduce((a, b) => Math.min(a, b), Infinity);
  let high = usable.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low > high) [low, high] = [1, 2];
  if (low === high) [low, high] = axis.log ? [low / 2, 2 * high] : [low - 0.5, high + 0.5];
  const map = axis.log ? Math.log10 : (value) => value;
  const count = Math.max(2, Math.floor(Math.abs(end - start) / room));
  const ticks = axis.log ? logTicks(low, high, count) : linearTicks(low, high, count);
  const of = (value) => {
    if (value === null || (axis.log && value <= 0)) return NaN;
    return start + ((map(value) - map(low)) / (map(high) - map(low))) * (end - start);
  };
  return { of, ticks };
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / count));
  const powers = [];
  for (let power = first; power <= last; power += every) powers.push(Number(`1e${power}`));
  if (powers.length >= 3) return powers;
  const between = [];
  for (let power = first - 1; power <= last; power++) {
    between.push(...[1, 2, 5].map((digit) => Number(`${digit}e${power}`)));
  }
  const inside = between.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return inside.length <= count ? inside : powers;
}

// ---------------------------------------------------------------- what every page has

/** Make the button that changes between light and dark; without it the system decides. */
function setUpTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)").matches;
  const set = (dark, chosen) => {
    if (chosen) document.documentElement.style.colorScheme = dark ? "dark" : "light";
    button.textContent = dark ? "Light colours" : "Dark colours";
    button.onclick = () => set(!dark, true);
  };
  set(system, false);
}

/**
 * Let the links of the contents list lead to their panels, also inside a notebook, where a link
 * to a part of the page would leave it.
 */
function setUpContents(list) {
  list.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    const panel = document.getElementById(link.hash.slice(1));
    panel.tabIndex = -1;
    panel.focus({ preventScroll: true });
    panel.scrollIntoView();
  });
}

/** Copy a text, and say so on the button. */
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // an older browser, or a page from a file or over plain HTTP
    const area = element("textarea", { class: "visually-hidden", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}
