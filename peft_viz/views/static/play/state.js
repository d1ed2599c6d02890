// What the reader chose, and its address: #word=pizza&task=reverse&out=v1. Only what differs from
// the beginning is written.

/**
 * @typedef {object} State
 * @property {string} word
 * @property {string} task
 * @property {string} method
 * @property {boolean} on is the adapter on?
 * @property {number} pad tokens of padding
 * @property {boolean} counted padding counts in the positions
 * @property {string[]} out columns whose mask is turned over
 * @property {number[]} off layers without LoRA
 * @property {number} layer whose attention is shown
 * @property {number} head of it; -1: the mean of all
 * @property {string} at the column that is looked at; empty: the one that asks for the answer
 * @property {string} lang
 * @property {string} theme
 */

export const MOST_PADDING = 12;
export const MOST_LETTERS = 12;

/** @type {Readonly<State>} */
export const BEGINNING = Object.freeze({
  word: "pizza",
  task: "reverse",
  method: "prompt",
  on: true,
  pad: 0,
  counted: false,
  out: [],
  off: [],
  layer: 1,
  head: -1,
  at: "",
  lang: "",
  theme: "",
});

const number = (least, most) => (text) => {
  return /^-?\d{1,3}$/.test(text) && +text >= least && +text <= most ? +text : null;
};
const oneOf =
  (...names) =>
  (text) =>
    names.includes(text) ? text : null;
const flag = (text) => (text === "1" ? true : text === "0" ? false : null);
const list = (read) => (text) => {
  const read_ = text.split(",").filter(Boolean).map(read);
  return read_.includes(null) ? null : read_;
};
const column = (text) => (/^[vptg]\d{1,2}$/.test(text) ? text : null);

/** How each part is read; null: not a value that it can have. */
const READERS = {
  word: (text) => [...text].slice(0, MOST_LETTERS).join(""),
  task: (text) => (/^[a-z]+$/.test(text) ? text : null),
  method: oneOf("prompt", "prefix", "lora"),
  on: flag,
  pad: number(0, MOST_PADDING),
  counted: flag,
  out: list(column),
  off: list(number(0, 99)),
  layer: number(0, 99),
  head: number(-1, 99),
  at: column,
  lang: oneOf("en", "zh"),
  theme: oneOf("light", "dark"),
};

const written = (value) => (typeof value === "boolean" ? String(+value) : String(value));

/** The address of a state, without "#". @param {State} state */
export function addressOf(state) {
  return Object.keys(BEGINNING)
    .filter((name) => written(state[name]) !== written(BEGINNING[name]))
    .map((name) => `${name}=${encodeURIComponent(written(state[name])).replaceAll("%2C", ",")}`)
    .join("&");
}

/**
 * The state that an address names. What it does not name, or names wrongly, is as in the beginning.
 * @param {string} hash
 * @returns {State}
 */
export function stateOf(hash) {
  const state = { ...BEGINNING };
  for (const part of hash.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    const name = part.slice(0, at);
    if (!Object.hasOwn(READERS, name)) continue;
    const value = READERS[name](decoded(part.slice(at + 1)));
    if (value !== null) state[name] = value;
  }
  return state;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not an address that was made here
  }
}

/** Does an address name a state, and not a heading of the page? @param {string} hash */
export const namesState = (hash) => /^#?[a-z]+=/.test(hash);
