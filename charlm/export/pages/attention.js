// The attention in whole numbers: the same bits as charlm/integer/attention.py. It needs no page.

const ATTENTION_BITS = 12;
const SHARE_BITS = 16;
const LARGEST_ATTENTION = 128;

/** The attention, see charlm/integer/attention.py; x, state, project() and step() are as in Layer. */
class Attention {
  /** weight makes query, key and value of x; bias has a number for each character looked at. */
  constructor(weight, bias) {
    const size = weight.rows / 3;
    this.weight = weight;
    this.bias = bias;
    this.x = new Float32Array(weight.columns);
    this.projected = new Float32Array(weight.rows);
    const all = () => new Int32Array(bias.length * size);
    // What is read out, keys and values in units, and where in them the oldest stands.
    this.state = [new Float32Array(size), all(), all(), new Float64Array(1)];
    this.query = new Float64Array(size);
    this.scores = new Float64Array(bias.length);
    this.sums = new Float64Array(size);
  }

  /** Compute query, key and value of x. */
  project() {
    this.weight.product(this.x, this.projected, false);
  }

  /** Read out what followed where things were like now. */
  step() {
    const { bias, projected, query, scores, sums } = this;
    const [y, keys, values, place] = this.state;
    const [count, size, oldest] = [bias.length, y.length, place[0]];
    const start = (index) => ((oldest + index) % count) * size;
    const root = Math.sqrt(size);
    for (let j = 0; j < size; j++) {
      query[j] = attentionUnits(Math.fround(projected[j] / root));
      values[oldest * size + j] = attentionUnits(projected[2 * size + j]); // in place of the oldest
    }
    let best = -Infinity;
    for (let i = 0; i < count; i++) {
      const first = start(i);
      let sum = 0;
      for (let j = 0; j < size; j++) sum += query[j] * keys[first + j];
      scores[i] = sum / 2 ** (2 * ATTENTION_BITS) + bias[i];
      best = Math.max(best, scores[i]);
    }
    let total = 0;
    sums.fill(0);
    for (let i = 0; i < count; i++) {
      const gap = Math.min((best - scores[i]) * TABLE_STEPS + 0.5, EXP_LIMIT * TABLE_STEPS);
      const share = Math.floor(EXP[gap | 0] / 2 ** (WEIGHT_BITS - SHARE_BITS));
      if (share === 0) continue;
      const first = start(i + 1); // a value is one character younger than its key
      for (let j = 0; j < size; j++) sums[j] += share * values[first + j];
      total += share;
    }
    for (let j = 0; j < size; j++) {
      y[j] = sums[j] / (total * 2 ** ATTENTION_BITS);
      keys[oldest * size + j] = attentionUnits(projected[size + j]);
    }
    place[0] = (oldest + 1) % count;
  }
}

/** Return a number in the units of the attention, see charlm/integer/attention.py. */
function attentionUnits(x) {
  const most = LARGEST_ATTENTION * 2 ** ATTENTION_BITS;
  return Math.max(-most, Math.min(rint(x * 2 ** ATTENTION_BITS), most));
}
