// The model in whole numbers: the same bits as charlm.integer in Python. It needs no page.
//
// A sum, difference, product or quotient is computed in float64 and stored in a Float32Array,
// which gives the bits of float32. Products of matrices are sums of whole numbers, which are exact.
// All other functions are tables made of plain arithmetic: those of Math may round in other ways.

// ---------------------------------------------------------------- functions and tables

const TABLE_STEPS = 1024; // entries of a table for each unit of its argument
const TANH_LIMIT = 8;
const WEIGHT_BITS = 30;
const EXP_LIMIT = 21;
const LN2_HIGH = 0.693145751953125;
const LN2_LOW = 1.42860682030941723212e-6;
const BIAS_BITS = 12;
const TABLE_BITS = 12;
const ROUNDER = 6755399441055744; // 1.5 * 2 ** 52: what is added to it is rounded, half to even
const EXACT_SUM = 2 ** 24;

/** Return the nearest whole number, the even one of two. */
function rint(x) {
  return Math.abs(x) < 2 ** 51 ? (x + ROUNDER) - ROUNDER : x; // a larger float32 is whole already
}

/** Return 2 ** n, or 0 where that is too small. */
function powerOfTwo(n) {
  let result = 1;
  for (; n > 0; n--) result *= 2;
  for (; n < 0 && result > 0; n++) result /= 2;
  return result;
}

/** Return exp(x) of a number that is not above 0. */
function exactExp(x) {
  const halvings = rint(x * -1.4426950408889634);
  const r = (x + halvings * LN2_HIGH) + halvings * LN2_LOW;
  let result = 1;
  for (let k = 14; k > 0; k--) result = result * r / k + 1;
  return result * powerOfTwo(-halvings);
}

/** Return the fraction, from 0.5 to below 1, and the power of two of a number. */
function fractionOf(x) {
  let [fraction, exponent] = [x, 0];
  if (x === 0 || !Number.isFinite(x)) return [x, 0];
  for (; Math.abs(fraction) >= 1; exponent++) fraction /= 2;
  for (; Math.abs(fraction) < 0.5; exponent--) fraction *= 2;
  return [fraction, exponent];
}

/** Return the natural logarithm of a number above 0. */
function exactLog(x) {
  let [fraction, exponent] = fractionOf(x);
  if (fraction < 0.7071067811865476) [fraction, exponent] = [2 * fraction, exponent - 1];
  const s = (fraction - 1) / (fraction + 1);
  const square = s * s;
  let series = 1 / 25;
  for (let k = 23; k > 0; k -= 2) series = series * square + 1 / k;
  return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * s * series);
}

const TANH = Float32Array.from({ length: 2 * TANH_LIMIT * TABLE_STEPS + 1 }, (_, place) => {
  const x = (place - TANH_LIMIT * TABLE_STEPS) / TABLE_STEPS;
  const e = exactExp(-2 * Math.abs(x));
  return Math.sign(x) * ((1 - e) / (1 + e));
});
// exp(-x) as whole numbers, by x * TABLE_STEPS.
const EXP = Float64Array.from({ length: EXP_LIMIT * TABLE_STEPS + 1 }, (_, place) =>
  rint(exactExp(-place / TABLE_STEPS) * powerOfTwo(WEIGHT_BITS)));
EXP[EXP.length - 1] = 0;

function unary(f) {
  return (out, a) => { for (let i = 0; i < out.length; i++) out[i] = f(a[i]); };
}

// By name: what an operation of a cell does. An operand of one number is used for every place, so
// each operand comes with 0 or 1, the distance to its next number.
const OPERATIONS = {
  add: (out, a, s, b, t) => { for (let i = 0; i < out.length; i++) out[i] = a[i * s] + b[i * t]; },
  subtract: (out, a, s, b, t) => {
    for (let i = 0; i < out.length; i++) out[i] = a[i * s] - b[i * t];
  },
  multiply: (out, a, s, b, t) => {
    for (let i = 0; i < out.length; i++) out[i] = a[i * s] * b[i * t];
  },
  divide: (out, a, s, b, t) => {
    for (let i = 0; i < out.length; i++) out[i] = a[i * s] / b[i * t];
  },
  maximum: (out, a, s, b, t) => {
    for (let i = 0; i < out.length; i++) out[i] = Math.max(a[i * s], b[i * t]);
  },
  minimum: (out, a, s, b, t) => {
    for (let i = 0; i < out.length; i++) out[i] = Math.min(a[i * s], b[i * t]);
  },
  tanh: (out, a) => {
    for (let i = 0; i < out.length; i++) {
      const place = Math.fround(Math.fround(a[i] * TABLE_STEPS) + (TANH_LIMIT * TABLE_STEPS + 0.5));
      out[i] = TANH[Math.max(0, Math.min(place, TANH.length - 1)) | 0];
    }
  },
  negative: unary((x) => -x),
  abs: unary(Math.abs),
  sqrt: unary(Math.sqrt), // rounds in one way only
  log: unary(exactLog),
  exp: unary((x) => (x > 0 ? 1 / exactExp(-Math.min(x, 80)) : exactExp(x))),
};

// ---------------------------------------------------------------- products

/**
 * A matrix (R, C) of whole numbers of 8 bits, each row in units of 2 ** -exponent.
 *
 * A product is a sum of whole numbers below 2 ** 24, so two rows fit into one float64: the number
 * of the second one counts 2 ** 26. That halves the work. Eight rows are summed side by side.
 */
class Matrix {
  /** The numbers begin at a place of bytes; behind them are the exponents. */
  constructor({ rows, columns, start }, bytes, bits) {
    this.rows = rows;
    this.columns = columns;
    this.bits = bits;
    this.numbers = new Int8Array(bytes.buffer, start, rows * columns);
    const exponents = new Int8Array(bytes.buffer, start + rows * columns, rows);
    this.units = Float64Array.from(exponents, (k) => powerOfTwo(-k));
    this.packed = new Float64Array(Math.ceil(this.rows / 8) * 4 * this.columns);
    let most = 1;
    for (let row = 0; row < this.rows; row++) {
      const first = ((row >> 3) * this.columns << 2) + (row >> 1 & 3);
      const size = row & 1 ? 2 ** 26 : 1;
      let sum = 0;
      for (let column = 0; column < this.columns; column++) {
        const value = this.numbers[row * this.columns + column];
        sum += Math.abs(value);
        this.packed[first + 4 * column] += size * value;
      }
      most = Math.max(most, sum);
    }
    this.most = Math.fround((EXACT_SUM / most - 0.5) * powerOfTwo(-bits));
    this.whole = new Float64Array(this.columns);
    this.sums = new Float64Array(Math.ceil(this.rows / 8) * 8);
  }

  /** Multiply with x (C), rounded to multiples of 2 ** -bits, into out (R). */
  product(x, out, bounded) {
    const { whole, sums, units } = this;
    let shift = 0;
    if (!bounded) { // where sums would not be exact, x is divided by a power of two first
      let most = 0;
      for (let i = 0; i < x.length; i++) most = Math.max(most, Math.abs(x[i]));
      if (most > this.most) shift = fractionOf(Math.fround(most / this.most))[1];
    }
    const [down, scale] = [powerOfTwo(-shift), powerOfTwo(this.bits)];
    for (let i = 0; i < x.length; i++) whole[i] = rint(Math.fround(x[i] * down) * scale);
    this.add(whole, sums);
    const [unit, up] = [powerOfTwo(-this.bits), powerOfTwo(shift)];
    for (let row = 0; row < out.length; row++) {
      out[row] = Math.fround(sums[row] * unit * units[row]) * up;
    }
  }

  /** Sum whole numbers x (C), weighted by each row, into sums (R). */
  add(x, sums) {
    const { packed, columns } = this;
    for (let row = 0, k = 0; row < sums.length; row += 8) {
      let [a, b, c, d] = [0, 0, 0, 0];
      for (let column = 0; column < columns; column++, k += 4) {
        const value = x[column];
        a += packed[k] * value;
        b += packed[k + 1] * value;
        c += packed[k + 2] * value;
        d += packed[k + 3] * value;
      }
      separate(a, sums, row);
      separate(b, sums, row + 2);
      separate(c, sums, row + 4);
      separate(d, sums, row + 6);
    }
  }

  /** Multiply with x (C) as it is, where that is exact in float64, into out (R). */
  exactProduct(x, out) {
    for (let row = 0, k = 0; row < out.length; row++) {
      let sum = 0;
      for (let column = 0; column < this.columns; column++, k++) sum += this.numbers[k] * x[column];
      out[row] = sum * this.units[row];
    }
  }

  /** Write a row into out (C). */
  row(index, out) {
    const first = index * this.columns;
    for (let i = 0; i < out.length; i++) out[i] = this.numbers[first + i] * this.units[index];
  }
}

function separate(both, sums, row) {
  const high = rint(both / 2 ** 26);
  sums[row] = both - high * 2 ** 26;
  sums[row + 1] = high;
}

// ---------------------------------------------------------------- the network

/** One layer: the operations of its cell, see charlm/export/trace.py, and its state. */
class Layer {
  /** values holds the parameters by name; widths are those of the input and of the state. */
  constructor(program, values, widths, bounded) {
    this.exact = false; // whether the input is multiplied as it is
    const registers = [];
    const register = (index, width) => (registers[index] = new Float32Array(width));
    this.x = register(program.x, widths.input);
    this.state = program.state.map((index, place) => register(index, widths.state[place]));
    const operand = (input) => {
      if (typeof input === "number") return registers[input];
      return typeof input === "string" ? values[input] : Float32Array.of(input.number);
    };
    const compiled = ({ out, name, inputs, width, start }) => {
      const matrix = name === "matmul" ? values[`${inputs[1]}:${start}`] : null;
      const [a, b] = matrix ? [operand(inputs[0]), matrix] : inputs.map(operand);
      if (name === "slice") {
        registers[out] = a.subarray(start, start + width);
        return null;
      }
      const result = register(out, width);
      if (name === "matmul") {
        return () => (this.exact ? b.exactProduct(a, result) : b.product(a, result, bounded));
      }
      const [s, t] = [a.length > 1 ? 1 : 0, b?.length > 1 ? 1 : 0];
      const run = OPERATIONS[name];
      return () => run(result, a, s, b, t);
    };
    const list = (ops) => ops.map(compiled).filter((operation) => operation !== null);
    this.projectOps = list(program.project);
    this.projected = registers[program.projected];
    this.stepOps = list(program.step);
    this.outputs = program.outputs.map((index) => registers[index]);
    this.next = this.state.map((state) => new Float32Array(state.length));
  }

  /** Compute the input product, of x. */
  project() {
    for (const operation of this.projectOps) operation();
  }

  /** Move the state, given the input product. */
  step() {
    for (const operation of this.stepOps) operation();
    this.outputs.forEach((output, place) => this.next[place].set(output));
    this.state.forEach((state, place) => state.set(this.next[place]));
  }
}

/** The network: step() reads a character and returns the logits of the next one. */
class Engine {
  /** model and bytes are what script_model() of charlm/export/html.py returns. */
  constructor(model, bytes) {
    const { bits, bounded } = model; // bounded: whether outputs are within -1 and 1
    const parameter = (value) => (value.rows
      ? new Matrix(value, bytes, bits)
      : Float32Array.from(value, (whole) => whole / 2 ** BIAS_BITS));
    this.model = model;
    this.bits = bits;
    this.bounded = bounded;
    this.embedding = parameter(model.embedding);
    this.head = model.head ? parameter(model.head) : this.embedding;
    this.bias = parameter(model.headBias);
    this.layers = model.layers.map((parameters, index) => {
      const values = Object.fromEntries(
        Object.entries(parameters).map(([name, value]) => [name, parameter(value)]));
      const program = JSON.parse(model.programs[Math.min(index, model.programs.length - 1)]);
      const input = index ? model.hiddenSize : this.embedding.columns;
      return new Layer(program, values, { input, state: model.stateSizes }, bounded);
    });
    this.lookBack = 0; // characters that the attention looks at
    if (model.attention) {
      const [weight, bias] = model.attention.map(parameter);
      this.layers.push(new Attention(weight, bias));
      this.lookBack = bias.length;
    }
    this.table = new Map(); // by character: its input product in layer 0
    this.y = new Float32Array(this.head.columns);
    this.logits = new Float32Array(this.bias.length);
  }

  get state() {
    return this.layers.map((layer) => layer.state.map((state) => state.slice()));
  }

  set state(states) {
    this.layers.forEach((layer, index) => {
      layer.state.forEach((state, place) => state.set(states[index][place]));
    });
  }

  /** Begin again in the initial state. */
  reset() {
    for (const layer of this.layers) for (const state of layer.state) state.fill(0);
  }

  /** Read a character; the logits that are returned are overwritten by the next call. */
  step(id) {
    const { y, logits, bias, bounded } = this;
    if (id === this.model.lineEnd) this.reset();
    const [unit, scale] = [powerOfTwo(-this.bits), powerOfTwo(this.bits)];
    this.layers.forEach((layer, index) => {
      if (index) {
        layer.x.set(y.subarray(0, layer.x.length));
        layer.project();
      } else {
        layer.projected.set(this.inputProduct(id));
      }
      layer.step();
      const output = layer.state[0];
      // What the attention has read out stands behind the outputs of the other layers.
      const beside = layer instanceof Attention;
      const part = beside ? y.subarray(this.model.hiddenSize) : y;
      const kept = index && !beside && this.model.residual ? 1 : 0;
      // y is a multiple of 2 ** -bits below 2 ** 24 of them, so the sum is exact.
      for (let i = 0; i < output.length; i++) {
        part[i] = kept * part[i] + rint(Math.fround(output[i] * scale)) * unit;
      }
    });
    this.head.product(y, logits, bounded);
    for (let i = 0; i < logits.length; i++) logits[i] += bias[i];
    return logits;
  }

  /** Return the input product of a character in layer 0, rounded to multiples of 2 ** -12. */
  inputProduct(id) {
    let found = this.table.get(id);
    if (!found) {
      const [layer] = this.layers;
      this.embedding.row(id, layer.x);
      layer.exact = true;
      layer.project();
      layer.exact = false;
      const scale = 2 ** TABLE_BITS;
      found = layer.projected.map((value) => rint(Math.fround(value * scale)) / scale);
      this.table.set(id, found);
    }
    return found;
  }
}
