// Drawing text with an Engine: random numbers, sampling, and a text that can be gone back in.
// It draws what charlm.integer draws in Python. It needs no page.

// ---------------------------------------------------------------- random numbers

const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

/** Return two random words of 32 bits for a counter: Threefry-2x32 with 20 rounds. */
function threefry(key, counter) {
  const keys = [key[0], key[1], (0x1BD11BDA ^ key[0] ^ key[1]) >>> 0];
  let [x, y] = [(counter[0] + keys[0]) >>> 0, (counter[1] + keys[1]) >>> 0];
  for (let four = 0; four < 5; four++) {
    for (const rotation of ROTATIONS[four % 2]) {
      x = (x + y) >>> 0;
      y = ((y << rotation | y >>> (32 - rotation)) ^ x) >>> 0;
    }
    x = (x + keys[(four + 1) % 3]) >>> 0;
    y = (y + keys[(four + 2) % 3] + four + 1) >>> 0;
  }
  return [x, y];
}

/** Return the number from [0, 1) for a place of a sample. */
function uniform(seed, sample, place) {
  const [x, y] = threefry([seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0], [place, sample]);
  return (x * 2 ** 21 + (y >>> 11)) / 2 ** 53;
}

// ---------------------------------------------------------------- sampling

function largest(values) {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

const LARGEST_SCALE = 1e30; // it leaves the likeliest alone, and no gap times it overflows

/** Return whole numbers (V) in proportion to which the next character is drawn. */
function weightsOf(logits, { temperature, topK, topP }) {
  const best = largest(logits);
  if (!Number.isFinite(best)) throw new Error("The model's predictions are not finite numbers.");
  const weights = new Float64Array(logits.length);
  if (temperature === 0) {
    weights[logits.indexOf(best)] = 1;
    return weights;
  }
  const scale = Math.min(1 / temperature, LARGEST_SCALE);
  for (let i = 0; i < logits.length; i++) {
    const place = Math.min((best - logits[i]) * scale * TABLE_STEPS + 0.5, EXP.length - 1);
    weights[i] = EXP[Math.floor(place)];
  }
  return topK || topP < 1 ? likeliestOf(weights, logits, topK, topP) : weights;
}

/** Leave only the likeliest: top-k, then those that hold the share top-p of what is left. */
function likeliestOf(weights, logits, topK, topP) {
  const order = ranking(logits);
  const last = topK ? Math.min(topK, order.length) : order.length;
  let total = 0;
  for (let rank = 0; rank < last; rank++) total += weights[order[rank]];
  let sum = 0;
  order.forEach((id, rank) => {
    const isLeft = rank < last && !(topP < 1 && sum >= topP * total);
    if (rank < last) sum += weights[id];
    if (!isLeft) weights[id] = 0;
  });
  return weights;
}

/** Return the characters by their logits, the largest one first, equal ones by their number. */
function ranking(logits) {
  return Array.from(logits.keys()).sort((a, b) => (logits[a] === logits[b]
    ? a - b
    : logits[b] - logits[a]));
}

/** Return a character drawn from weights (V), by a number from [0, 1). */
function choose(weights, number) {
  const bound = weights.reduce((sum, weight) => sum + weight, 0) * number;
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    sum += weights[i];
    if (sum > bound) return i;
  }
  return weights.length - 1;
}

/** Return the probabilities (V) for logits. */
function probabilities(logits) {
  const weights = weightsOf(logits, { temperature: 1, topK: 0, topP: 1 });
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

/** Return the surprisal of a character in bits. */
function surprisal(logits, id) {
  const weights = weightsOf(logits, { temperature: 1, topK: 0, topP: 1 });
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const gap = largest(logits) - logits[id];
  return (exactLog(sum / 2 ** WEIGHT_BITS) + gap) / Math.LN2;
}

// ---------------------------------------------------------------- a text

/**
 * A text that grows, and that can be cut off at any place to go on from there.
 *
 * ids holds what the model has read. The first `hidden` of them are no part of the text: they stand
 * for the start of a line. A model of items writes one item for each line, each a sample of its
 * own; one that is empty or too long is left out.
 */
class Writer {
  /** prompt holds the ids of known characters, for a model of items those of one line. */
  constructor(engine, prompt) {
    const { lineStart, lineEnd } = engine.model;
    this.engine = engine;
    this.prompt = prompt;
    this.isItems = lineEnd !== null;
    this.hidden = this.isItems || prompt.length === 0 ? 1 : 0;
    this.ids = [];
    this.bits = []; // the surprise of each character, null where nothing was read before it
    this.kept = []; // states of the engine, one in so many characters
    // The state of an attention is large, and the larger the further it looks back.
    this.every = 64 * Math.max(1, Math.ceil(engine.lookBack / 128));
    this.logits = null; // of the character that follows
    this.unread = []; // what is read before more is drawn
    this.samples = []; // {sample, start}: its number, and where its drawing begins
    this.lowest = 0; // how short the text has been since the page has looked
    engine.reset();
    if (this.hidden) this.push(this.isItems ? lineEnd : lineStart);
    this.begin(0);
  }

  /** Return a copy, to go back to. Before it is used, seek() its end. */
  copy() {
    const own = ["ids", "bits", "kept", "unread"].map((name) => [name, this[name].slice()]);
    const samples = this.samples.map((one) => ({ ...one }));
    return Object.assign(Object.create(Writer.prototype), this, Object.fromEntries(own), { samples });
  }

  /** Begin a sample. */
  begin(sample) {
    this.unread = this.prompt.slice();
    this.samples.push({ sample, start: this.ids.length + this.prompt.length });
  }

  /** Read one more character. */
  push(id) {
    if (this.ids.length % this.every === 0) this.kept.push(this.engine.state);
    this.bits.push(this.logits ? surprisal(this.logits, id) : null);
    this.ids.push(id);
    this.logits = this.engine.step(id).slice();
  }

  /** Read the next character of the prompt, or draw one; return whether it ends an item. */
  next(settings) {
    const { lineEnd, longestItem } = this.engine.model;
    if (this.isItems && this.ids[this.ids.length - 1] === lineEnd && this.ids.length > this.last.start) {
      this.begin(this.last.sample + 1);
    }
    if (this.unread.length) {
      this.push(this.unread.shift());
      return false;
    }
    const id = this.draw(settings);
    this.push(id);
    if (!this.isItems) return false;
    const start = 1 + this.ids.lastIndexOf(lineEnd, this.ids.length - 2);
    const length = this.ids.length - start - (id === lineEnd ? 1 : 0);
    if (length > longestItem || (id === lineEnd && length === 0)) {
      const { sample } = this.samples.pop();
      this.cut(start);
      this.begin(sample + 1);
      return false;
    }
    return id === lineEnd;
  }

  /** Return the next character as it is drawn; settings are temperature, topK, topP and seed. */
  draw(settings) {
    const { unknown } = this.engine.model;
    const logits = this.logits.slice();
    if (unknown !== null) logits[unknown] = -Infinity; // it is never drawn
    const { sample, start } = this.last;
    const number = uniform(settings.seed, sample, this.ids.length - start);
    return choose(weightsOf(logits, settings), number);
  }

  get last() {
    return this.samples[this.samples.length - 1];
  }

  /** Cut the text off before a place of ids. */
  cut(place) {
    this.logits = this.seek(place);
    this.ids.length = place;
    this.bits.length = place;
    this.kept.length = Math.ceil(place / this.every);
    this.unread = [];
    this.lowest = Math.min(this.lowest, place);
    while (this.samples.length > 1 && this.last.start > place) this.samples.pop();
    if (this.last?.start > place) this.last.start = place;
  }

  /** Put another character at a place of ids, and go on from there. */
  replace(place, id) {
    this.cut(place);
    this.push(id);
    if (this.last.start > place) this.last.start = place + 1;
  }

  /** Return the logits before a place of ids, null before the first one. */
  logitsAt(place) {
    const found = this.seek(place);
    this.seek(this.ids.length);
    return found;
  }

  /** Move the engine to before a place of ids; return the logits there. */
  seek(place) {
    const first = Math.max(0, Math.ceil(place / this.every) - 1);
    if (this.kept.length) this.engine.state = this.kept[first];
    let logits = null;
    for (let i = first * this.every; i < place; i++) logits = this.engine.step(this.ids[i]);
    return logits && logits.slice();
  }
}
