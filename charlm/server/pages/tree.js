// The text as a tree of branches. It knows nothing of the page.
//
// A node is a step: of the text before it, `keep` characters stay, and `text` follows them. So the
// whole text of a node is made of the steps that lead to it. Characters are code points, as for the
// model, never halves of them.

const MOST_NODES = 500;
const ROOM = 1_500_000; // characters of all steps together that are kept
const MOST_STEPS_BACK = 300;
const KINDS = ["start", "typed", "written", "chosen"];

class Tree {
  constructor() {
    this.nodes = new Map();
    this.count = 0;
    this.past = []; // the nodes that were current, for undo
    this.future = [];
    this.current = this.#put({ parent: null, keep: 0, text: "", kind: "start" });
  }

  #put({ parent, keep, text, kind, given = 0, about = null }) {
    const node = { id: this.count++, parent, keep, text, kind, given, about, bits: [], tops: [] };
    this.nodes.set(node.id, node);
    return node;
  }

  /**
   * Add a step after the current node, or after another one.
   *
   * given is how many of its first characters were not drawn, about what the others are drawn with.
   */
  add({ keep, text = "", kind, given, about }, parent = this.current) {
    return this.#put({ parent: parent.id, keep, text, kind, given, about });
  }

  /** Return the steps from the start to a node. */
  path(node) {
    const found = [];
    for (let one = node; one; one = this.nodes.get(one.parent)) found.push(one);
    return found.reverse();
  }

  /**
   * Return the whole text of a node: its characters, and of each whether it was given, its bits of
   * surprise and the likeliest in its place, null where they are not known.
   */
  read(node = this.current) {
    const text = { characters: [], given: [], bits: [], tops: [] };
    for (const { keep, text: own, given, bits, tops } of this.path(node)) {
      for (const list of Object.values(text)) list.length = keep;
      let place = 0;
      for (const character of own) {
        text.characters.push(character);
        text.given.push(place < given);
        text.bits.push(bits[place] ?? null);
        text.tops.push(tops[place] ?? null);
        place++;
      }
    }
    return text;
  }

  /** Keep the surprise of each character of the current text where it was not known. */
  fill(bits) {
    let end = bits.length;
    for (const node of this.path(this.current).reverse()) {
      for (let i = node.keep; i < end; i++) node.bits[i - node.keep] ??= bits[i];
      end = Math.min(end, node.keep);
    }
  }

  /** Make a node the current one; undo() takes it back. */
  go(node) {
    if (node === this.current) return;
    this.past = [...this.past, this.current.id].slice(-MOST_STEPS_BACK);
    this.future = [];
    this.current = node;
  }

  /** Go back to what was current before; return whether there was something. */
  undo() {
    return this.#back(this.past, this.future);
  }

  /** Take an undo back; return whether there was one. */
  redo() {
    return this.#back(this.future, this.past);
  }

  #back(from, to) {
    const node = this.nodes.get(from.pop());
    if (!node) return false;
    to.push(this.current.id);
    this.current = node;
    return true;
  }

  children(node) {
    return Array.from(this.nodes.values()).filter(({ parent }) => parent === node.id);
  }

  /** Remove a step after which there is none, as if it had never been. */
  remove(node) {
    if (node === this.current) this.current = this.nodes.get(node.parent);
    this.nodes.delete(node.id);
    this.#forget();
  }

  /** Leave out what is no more of the ways back and forth, and standing still. */
  #forget() {
    for (const name of ["past", "future"]) {
      const there = this[name].filter((id) => this.nodes.has(id));
      this[name] = there.filter((id, place) => id !== there[place + 1]);
      if (this[name].at(-1) === this.current.id) this[name].pop();
    }
  }

  /** Forget the oldest steps that lead nowhere, those that were typed last, until all fits. */
  prune(room = ROOM, most = MOST_NODES) {
    const size = () => Array.from(this.nodes.values())
      .reduce((sum, { text }) => sum + text.length + 100, 0);
    const kept = new Set(this.path(this.current));
    let left = size();
    while (left > room || this.nodes.size > most) {
      const parents = new Set(Array.from(this.nodes.values(), ({ parent }) => parent));
      const ends = Array.from(this.nodes.values())
        .filter((node) => !kept.has(node) && !parents.has(node.id))
        .sort((a, b) => (a.kind === "typed") - (b.kind === "typed") || a.id - b.id);
      if (!ends.length) break;
      left -= ends[0].text.length + 100;
      this.nodes.delete(ends[0].id);
    }
    if (left > room || this.nodes.size > most) this.#flatten();
    this.#forget();
  }

  /** Leave only the text as it is, in one step. */
  #flatten() {
    const text = this.read();
    const [start] = this.path(this.current);
    this.nodes = new Map([[start.id, start]]);
    this.current = this.add({
      keep: 0, text: text.characters.join(""), kind: "typed", given: text.characters.length,
    }, start);
    this.current.bits = text.bits;
  }

  /** Return what is needed to have it again; how surprising it was is not kept. */
  toJSON() {
    const nodes = Array.from(this.nodes.values(), ({ bits: _, tops: __, ...node }) => node);
    const { count, past, future } = this;
    return { nodes, count, current: this.current.id, past, future };
  }

  /** Return the tree that toJSON() told of. Raises TypeError if it is none. */
  static from({ nodes, count, current, past, future }) {
    const tree = new Tree();
    tree.nodes = new Map();
    for (const node of nodes) {
      const isWhole = [node.id, node.keep, node.given].every(Number.isSafeInteger)
        && typeof node.text === "string" && KINDS.includes(node.kind)
        && (node.kind === "start" ? node.parent === null : tree.nodes.has(node.parent));
      if (!isWhole || node.id >= count || tree.nodes.has(node.id)) throw new TypeError("a node");
      tree.nodes.set(node.id, { ...node, bits: [], tops: [] });
    }
    if (!tree.nodes.has(current)) throw new TypeError("the current node");
    Object.assign(tree, { count, current: tree.nodes.get(current), past, future });
    tree.#forget();
    return tree;
  }
}

/**
 * Return what was changed in a text: how many characters stay in front, and what follows them.
 *
 * edited is the text as a field gives it back, which makes one line end of each kind there is
 * (CR, CR LF). What was not touched keeps its own.
 */
function changeOf(characters, edited) {
  const own = []; // for each character of the field the ones that it stands for
  for (let i = 0; i < characters.length; i++) {
    const isPair = characters[i] === "\r" && characters[i + 1] === "\n";
    own.push(isPair ? "\r\n" : characters[i]);
    if (isPair) i++;
  }
  const shown = own.map((character) => (character[0] === "\r" ? "\n" : character));
  const now = Array.from(edited);
  const most = Math.min(shown.length, now.length);
  let front = 0;
  while (front < most && shown[front] === now[front]) front++;
  if (front === shown.length && front === now.length) return null;
  let back = 0;
  while (back < most - front && shown.at(-1 - back) === now.at(-1 - back)) back++;
  const text = now.slice(front, now.length - back).join("") + own.slice(own.length - back).join("");
  return { keep: Array.from(own.slice(0, front).join("")).length, text };
}
