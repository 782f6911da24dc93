// The text view: one element for each character, a cursor, a marked span, and colours.

const STEPS = 15; // of colour, from none to the strongest

class TextView {
  /**
   * Fill a box with characters.
   *
   * on.look is called with the place to be read out: under the pointer, else at the cursor.
   * on.move is called with the place of the cursor when it has moved.
   * on.mark is called with the marked span [start, end), or null.
   */
  constructor(box, characters, on) {
    this.box = box;
    this.on = on;
    this.cursor = 0;
    this.anchor = 0;
    this.marked = null;
    this.spans = [];
    this.base = [];
    this.places = new Map();
    box.replaceChildren();
    this.append(characters);
    box.addEventListener("keydown", (event) => this.#key(event));
    box.addEventListener("mousedown", (event) => this.#press(event));
    box.addEventListener("mouseover", (event) => this.#hover(event));
    box.addEventListener("mouseleave", () => on.look(this.cursor));
    box.addEventListener("focus", () => on.look(this.cursor));
  }

  /** Add characters at the end. Each line is a block, which keeps its direction to itself. */
  append(characters) {
    for (const character of characters) {
      const span = characterElement(character);
      const last = this.spans.at(-1);
      const line = last && !last.matches(".end") ? last.parentElement : this.#newLine();
      line.append(span);
      this.places.set(span, this.spans.length);
      this.spans.push(span);
      this.base.push(span.className);
    }
    this.spans[this.cursor]?.setAttribute("data-cursor", "");
  }

  #newLine() {
    return this.box.appendChild(element("div", { dir: "auto" }));
  }

  /** Take all characters from a place on away. */
  cut(place) {
    for (const span of this.spans.splice(place)) {
      const line = span.parentElement;
      span.remove();
      if (!line.hasChildNodes()) line.remove();
      this.places.delete(span);
    }
    this.base.length = this.spans.length;
    this.cursor = Math.max(0, Math.min(this.cursor, this.spans.length - 1));
    this.anchor = this.cursor;
    this.spans[this.cursor]?.setAttribute("data-cursor", "");
  }

  /**
   * Colour all characters from a place on.
   *
   * levels are whole numbers from -STEPS to STEPS; null is a character that has no value, which is
   * shown pale. hues are the classes for positive and negative levels.
   */
  paint(levels, hues = ["hot", "cold"], from = 0) {
    const names = new Map([[0, ""], [null, " dim"]]);
    for (let level = 1; level <= STEPS; level++) {
      names.set(level, ` ${hues[0]} w${level}`);
      names.set(-level, ` ${hues[1]} w${level}`);
    }
    for (let place = from; place < this.spans.length; place++) {
      const name = this.base[place] + names.get(levels[place]);
      if (this.spans[place].className !== name) this.spans[place].className = name;
    }
  }

  /** Move the cursor, and scroll to it. With extend, mark from where the marking began. */
  move(place, extend = false) {
    this.spans[this.cursor].removeAttribute("data-cursor");
    this.cursor = Math.max(0, Math.min(place, this.spans.length - 1));
    this.spans[this.cursor].setAttribute("data-cursor", "");
    if (extend) {
      const [first, last] = [this.anchor, this.cursor].sort((a, b) => a - b);
      this.mark([first, last + 1]);
    } else {
      this.anchor = this.cursor;
    }
    this.#reveal(this.spans[this.cursor]);
    this.on.move(this.cursor);
    this.on.look(this.cursor);
  }

  /** Mark a span [start, end), or none. */
  mark(span) {
    const inside = (limits, place) => limits && place >= limits[0] && place < limits[1];
    const old = this.marked;
    this.marked = span;
    const all = [old, span].filter((limits) => limits);
    for (const [start, end] of all) {
      for (let place = start; place < end; place++) {
        this.spans[place].toggleAttribute("data-marked", Boolean(inside(span, place)));
      }
    }
    this.on.mark(span);
  }

  #reveal(span) {
    const { box } = this;
    const [top, height, line] = [span.offsetTop, box.clientHeight, span.offsetHeight];
    const above = top - box.scrollTop - line;
    const below = top + 2 * line - box.scrollTop - height;
    if (above < -height || below > height) box.scrollTop = top - height / 2; // a jump
    else if (above < 0) box.scrollTop += above;
    else if (below > 0) box.scrollTop += below;
  }

  #key(event) {
    const { cursor, box } = this;
    const targets = {
      ArrowLeft: () => cursor - 1,
      ArrowRight: () => cursor + 1,
      ArrowUp: () => this.#vertical(-1),
      ArrowDown: () => this.#vertical(1),
      PageUp: () => this.#vertical(-0.9 * box.clientHeight),
      PageDown: () => this.#vertical(0.9 * box.clientHeight),
      Home: () => (event.ctrlKey ? 0 : this.#edge(-1)),
      End: () => (event.ctrlKey ? Infinity : this.#edge(1)),
      Escape: () => null,
    };
    if (!(event.key in targets) || !this.spans.length || event.altKey || event.metaKey) return;
    event.preventDefault();
    const target = targets[event.key]();
    if (target === null) this.mark(null);
    else {
      this.move(target, event.shiftKey);
      this.box.parentElement.scrollIntoView({ block: "nearest" });
    }
  }

  /** Return the place in the same column of a line that is so many pixels above or below. */
  #vertical(pixels) {
    const direction = Math.sign(pixels);
    const { offsetTop: top, offsetLeft: left } = this.spans[this.cursor];
    let place = this.#lineBeyond(top + pixels, direction);
    if (place === null) return direction < 0 ? 0 : this.spans.length - 1;
    const line = this.spans[place].offsetTop;
    const gap = (one) => Math.abs(this.spans[one].offsetLeft - left);
    for (let next = place; this.#onLine(next, line); next += direction) {
      if (gap(next) < gap(place)) place = next;
    }
    return place;
  }

  /** Return the first place, going on from the cursor, of a line at or beyond a height. */
  #lineBeyond(height, direction) {
    const here = this.spans[this.cursor];
    for (let place = this.cursor + direction; this.spans[place]; place += direction) {
      const top = this.spans[place].offsetTop;
      // Half a line of tolerance: signs in a smaller font do not begin at the same height.
      if ((top - here.offsetTop) * direction > here.offsetHeight / 2
          && (top - height) * direction >= 0) return place;
    }
    return null;
  }

  #onLine(place, top) {
    const span = this.spans[place];
    return span && Math.abs(span.offsetTop - top) < span.offsetHeight / 2 + 4;
  }

  /** Return the first or last place of the line of the cursor, as it is wrapped. */
  #edge(direction) {
    const top = this.spans[this.cursor].offsetTop;
    let place = this.cursor;
    while (this.#onLine(place + direction, top)) place += direction;
    return place;
  }

  #placeOf(event) {
    return this.places.get(event.target.closest?.("span"));
  }

  #press(event) {
    const place = this.#placeOf(event);
    if (place === undefined || event.button !== 0) return;
    this.move(place, event.shiftKey);
  }

  #hover(event) {
    const place = this.#placeOf(event);
    if (place === undefined) return;
    if (event.buttons & 1 && place !== this.cursor) this.move(place, true);
    else this.on.look(place);
  }
}

/** Return the element of a character, with a sign in place of what shows nothing. */
function characterElement(character) {
  const sign = character === " " ? " " : visible(character);
  let name = "";
  if (character === "\n") name = "end";
  else if (character === "\t") name = "tab";
  else if (sign.startsWith("U+")) name = "code";
  return element("span", { class: name }, sign);
}
