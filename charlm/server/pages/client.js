// The server: requests, answers in pieces, and in words what goes wrong.

const MOST_TRIES = 6; // of a request for which the server is too busy
const LONGEST_WAIT = 30; // seconds between two of them
const GONE = "The server does not answer.";

/** What the server refused, or could not do. A status of 0: it was not reached, or went away. */
class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

class Client {
  /**
   * Talk to the server that this page came from.
   *
   * on.busy is called with the seconds until a request is tried again, on.gone when the server
   * cannot be reached, on.reached when it answers, on.locked when the key is missing or wrong.
   */
  constructor(on) {
    this.on = on;
    this.key = null;
  }

  /** Return the answer to a request as JSON; with a body it is a POST. Raises ServerError. */
  async json(path, body, signal) {
    const response = await this.#request(path, body, signal);
    try {
      return await response.json();
    } catch (error) {
      throw await this.#inWords(error);
    }
  }

  /** Ask for an answer in pieces, and call onEvent with each. Raises ServerError. */
  async stream(path, body, signal, onEvent) {
    const response = await this.#request(path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const events = (text + value).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const content = event.slice("data: ".length);
          if (content === "[DONE]") return;
          const found = JSON.parse(content);
          if (found.error) throw new ServerError(found.error.message, 500);
          onEvent(found);
        }
      }
    } catch (error) {
      throw await this.#inWords(error);
    }
    this.on.gone();
    throw new ServerError(`${GONE} What it had written is kept.`);
  }

  /** Return whether the server answers. */
  async isThere() {
    try {
      return (await fetch("/health")).ok;
    } catch {
      return false;
    }
  }

  async #request(path, body, signal) {
    for (let tries = 1; ; tries++) {
      const response = await this.#fetch(path, body, signal);
      if (response.ok) return response;
      if (response.status === 401) this.on.locked();
      if (response.status !== 429 || tries === MOST_TRIES) throw await refusal(response);
      const asked = Number(response.headers.get("Retry-After"));
      const seconds = Math.min(LONGEST_WAIT, asked > 0 ? asked : 2 ** tries);
      this.on.busy(seconds);
      await pause(1000 * seconds, signal);
    }
  }

  async #fetch(path, body, signal) {
    const headers = this.key === null ? {} : { Authorization: `Bearer ${this.key}` };
    const options = { headers, signal };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    try {
      const response = await fetch(path, options);
      this.on.reached();
      return response;
    } catch (error) {
      throw await this.#inWords(error);
    }
  }

  /** Return an error of the browser in words; an abort stays what it is. */
  async #inWords(error) {
    if (error instanceof ServerError || error.name === "AbortError") return error;
    if (await this.isThere()) {
      return new ServerError("The connection to the server broke off. Try again.");
    }
    this.on.gone();
    return new ServerError(GONE);
  }
}

/** Return the error of an answer that is one. */
async function refusal(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { // it is not an answer of charlm: the status is all there is
  }
  return new ServerError(message, response.status);
}

/** Wait so many milliseconds, or until the signal aborts. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave);
      resolve();
    }, milliseconds);
    if (signal?.aborted) leave();
    else signal?.addEventListener("abort", leave, { once: true });
  });
}

// ---------------------------------------------------------------- continuations

/** A text that is being drawn: its characters, how surprising each was, and what was likely. */
class Drawn {
  constructor() {
    this.text = "";
    this.count = 0; // of characters
    this.bits = []; // of each, null if it was not told
    this.tops = []; // of each the likeliest as [character, probability], or null
    this.reason = null; // why it ended
  }

  /** Take a piece of an answer. */
  add({ text, logprobs, finish_reason: reason }) {
    const characters = Array.from(text);
    this.text += text;
    this.count += characters.length;
    for (let i = 0; i < characters.length; i++) {
      const nats = logprobs?.token_logprobs[i];
      this.bits.push(nats === undefined ? null : Math.max(0, -nats / Math.LN2));
      this.tops.push(likeliestOf(logprobs?.top_logprobs[i]));
    }
    this.reason = reason ?? this.reason;
  }

  /** The mean surprise of a character in bits, null if it was not told. */
  get mean() {
    if (!this.count || this.bits.includes(null)) return null;
    return this.bits.reduce((sum, bits) => sum + bits, 0) / this.count;
  }
}

/** Return the likeliest characters of one place, the likeliest first. */
function likeliestOf(logprobs) {
  if (!logprobs) return null;
  return Object.entries(logprobs)
    .map(([character, nats]) => [character, Math.exp(nats)])
    .sort((one, other) => other[1] - one[1]);
}

/** Return the place of the first half of a character (a lone surrogate), -1 if there is none. */
function placeOfHalf(text) {
  if (text.isWellFormed?.()) return -1;
  return Array.from(text).findIndex((character) => /^\p{Surrogate}$/u.test(character));
}
