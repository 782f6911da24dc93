// What the browser keeps: the text with its branches, settings, favourites; and links.

const PAGE = "charlm.page";
const FAVOURITES = "charlm.favourites";
const KEY = "charlm.key";
const MOST_FAVOURITES = 300;
const LONG_LINK = 8000; // characters, above which some programs cut a link off

/** Return one of the browser's two storages; null where it is not allowed. */
function storageOf(name) {
  try {
    return window[name];
  } catch {
    return null;
  }
}

/** Return a value that was kept, null if there is none or it is damaged. */
function recall(storage, name) {
  try {
    return JSON.parse(storage.getItem(name));
  } catch {
    return null;
  }
}

/** Keep a value; return whether there was room. */
function remember(storage, name, value) {
  try {
    storage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/**
 * Return the page as it was left.
 *
 * Each tab keeps its own, for a reload; a new tab begins with what was kept last.
 */
function recallPage() {
  for (const name of ["sessionStorage", "localStorage"]) {
    const found = recall(storageOf(name), PAGE);
    try {
      if (found?.version === 1) return { ...found, tree: Tree.from(found.tree) };
    } catch { // of another version, or damaged: begin anew
    }
  }
  return null;
}

/** Keep the page; if there is no room, without older branches. Return whether it is kept. */
function rememberPage(state) {
  const keep = () => {
    const value = { version: 1, ...state };
    const own = remember(storageOf("sessionStorage"), PAGE, value);
    return remember(storageOf("localStorage"), PAGE, value) || own;
  };
  if (keep()) return true;
  for (let room = ROOM / 2; room > 20_000 && !job; room /= 4) {
    state.tree.prune(room);
    if (keep()) return true;
  }
  return false;
}

function recallFavourites() {
  const found = recall(storageOf("localStorage"), FAVOURITES);
  const isOne = (one) => typeof one?.text === "string" && typeof one.model === "string";
  return Array.isArray(found) ? found.filter(isOne) : [];
}

function rememberFavourites(list) {
  return remember(storageOf("localStorage"), FAVOURITES, list);
}

// ---------------------------------------------------------------- links

/** Return the part of a link after #, from texts and numbers by name. Null for half a character. */
function fragmentOf(fields) {
  const words = [];
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      try {
        words.push(`${name}=${encodeURIComponent(one)}`);
      } catch {
        return null;
      }
    }
  }
  return words.join("&");
}

/** Return the texts of a link by name, each a list; null if it is none of ours. */
function fieldsOf(fragment) {
  if (!/^#?(?:[a-z_]+=[^&]*)(?:&[a-z_]+=[^&]*)*$/.test(fragment)) return null;
  const fields = {};
  for (const word of fragment.replace(/^#/, "").split("&")) {
    const [name, ...value] = word.split("=");
    try {
      (fields[name] ??= []).push(decodeURIComponent(value.join("=")));
    } catch {
      return null;
    }
  }
  return fields;
}

// ---------------------------------------------------------------- stop texts, files

const ESCAPES = { n: "\n", t: "\t", r: "\r", "\\": "\\" };

/** Return the stop texts of a field, one a line, where \n stands for a line end. */
function stopsOf(value) {
  const lines = value.split("\n").filter((line) => line !== "");
  return lines.map((line) => line.replace(/\\([ntr\\])/g, (_, letter) => ESCAPES[letter]));
}

function lineOfStop(stop) {
  const letters = Object.fromEntries(Object.entries(ESCAPES).map(([a, b]) => [b, `\\${a}`]));
  return Array.from(stop, (character) => letters[character] ?? character).join("");
}

/** Let the browser save a text as a file. */
function download(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
