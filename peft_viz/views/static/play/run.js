// One question, read and answered: where everything stands, and what the model makes of it.
import { Memory } from "./memory.js";
import { largest, softmax } from "./tensors.js";

/**
 * @typedef {import("./llama.js").Llama} Llama
 * @typedef {import("./llama.js").Row} Row
 * @typedef {import("./tokens.js").Tokens} Tokens
 *
 * What is asked of the model.
 * @typedef {object} Asked
 * @property {string} word
 * @property {string} task that was learned
 * @property {string} method "prompt", "prefix", "lora"; "none" without an adapter
 * @property {number} padding tokens of padding on the left
 * @property {boolean} counted do they count in the positions? (They should not.)
 * @property {string[]} flipped columns whose mask is turned over: "v0", "p2", "t1"
 * @property {number[]} [off] layers in which LoRA is switched off
 *
 * A place in the row.
 * @typedef {object} Column
 * @property {"virtual" | "padding" | "token" | "generated"} role
 * @property {string} name "v0", "p2", "t1", "g3"
 * @property {number | null} id
 * @property {string} text
 * @property {number} seen 1: others may attend to it
 * @property {number} position
 *
 * @typedef {object} Answered
 * @property {Column[]} columns
 * @property {number} first the first column that is read as a query
 * @property {number} asks the column that asks for the first letter of the answer
 * @property {string} answer
 * @property {Row[]} rows what the model made of each column from `first` on, up to the last
 * @property {number} computed how many of them were not known
 * @property {number} milliseconds
 */

const LONGEST = 24; // letters in an answer

/** The row as it stands before the model reads it. @param {Tokens} tokens @param {Asked} asked */
export function place(tokens, asked, virtual) {
  /** @type {Column[]} */
  const columns = [];
  const put = (role, name, id) => {
    const text = id == null ? "" : tokens.vocabulary[id];
    const usual = role !== "padding";
    const seen = +(asked.flipped.includes(name) ? !usual : usual);
    const counts = (c) => c.role !== "padding" || asked.counted;
    columns.push({ role, name, id, text, seen, position: columns.filter(counts).length });
  };
  for (let i = 0; i < virtual; i++) put("virtual", `v${i}`, null);
  for (let i = 0; i < asked.padding; i++) put("padding", `p${i}`, tokens.pad);
  tokens.encode(`${asked.word}=`).forEach((id, i) => put("token", `t${i}`, id));
  return columns;
}

/**
 * What was learned of a task with a method, as a forward pass takes it.
 * @typedef {object} Learned
 * @property {number} virtual how many virtual tokens
 * @property {Float32Array} [prompt] their embeddings
 * @property {Float32Array} [prefix] their keys and values, as peft stores them
 * @property {import("./llama.js").Change} [change]
 */

/** @param {Llama} model @param {import("./packed.js").Packed} packed @param {Asked} asked */
export function learned(model, packed, asked) {
  const { method, task, off = [] } = asked;
  const { virtual = 0, rank, scale, modules } = packed.methods[method] || {};
  const tensor = (name) => model.tensors[`${task}.${method}.${name}`];
  /** @type {Learned} */
  const out = { virtual };
  if (method === "prompt") out.prompt = tensor("embeddings");
  if (method === "prefix") out.prefix = tensor("embeddings");
  if (method === "lora") {
    out.change = (layer, name) => {
      if (!modules.includes(name) || off.includes(layer)) return null;
      const [a, b] = [tensor(`${layer}.${name}.A`), tensor(`${layer}.${name}.B`)];
      return { a, b, rank, scale };
    };
  }
  return out;
}

/** A token of a prefix: [2 * layers, width], keys and values in turn. */
function keysAndValues(prefix, v, { num_hidden_layers: layers }, virtual) {
  const width = prefix.length / (virtual * 2 * layers);
  const part = (i) => prefix.subarray((v * 2 * layers + i) * width).subarray(0, width);
  const every = (from) => Array.from({ length: layers }, (_, layer) => part(2 * layer + from));
  return { keys: every(0), values: every(1) };
}

/**
 * Read the question, then write the likeliest letter until the end.
 * @param {Llama} model
 * @param {Tokens} tokens
 * @param {import("./packed.js").Packed} packed
 * @param {Asked} asked
 * @param {Memory} [memory] of what was read before, with the same model
 * @returns {Answered}
 */
export function run(model, tokens, packed, asked, memory = new Memory()) {
  const start = performance.now();
  memory.shrink();
  const { virtual, prompt, prefix, change = null } = learned(model, packed, asked);
  const columns = place(tokens, asked, virtual);
  const width = model.config.hidden_size;
  const changed = change ? `${asked.task} ${asked.off}` : "";
  /** @type {Row[]} that later ones see */
  const seen = [];
  let computed = 0;

  /** @param {Column} c @param {number} i */
  const given = ({ role, id, position }, i) => {
    if (role !== "virtual") return { embedding: model.embedding(id), position };
    if (prompt) return { embedding: prompt.subarray(i * width, (i + 1) * width), position };
    return { embedding: null, position, ...keysAndValues(prefix, i, model.config, virtual) };
  };
  /** @param {Column} c @param {number} i */
  const rowOf = (c, i) => {
    const what = c.id == null ? `${asked.task} ${asked.method} ${c.name}` : `${changed} ${c.id}`;
    const row = memory.row(what, c.id == null && prefix ? [] : seen, !!c.seen, given(c, i));
    if (c.seen) seen.push(row);
    return row;
  };
  /** @param {Column[]} columns */
  const read = (columns) => {
    const rows = columns.map(rowOf);
    const fresh = new Set(rows.filter((row) => row.embedding && !row.logits));
    if (fresh.size) model.forward([...fresh], change);
    computed += fresh.size;
    return rows;
  };
  const rows = read(columns);
  const first = prefix ? virtual : 0;
  const asks = columns.length - 1;
  /** @type {number[]} */
  const made = [];
  while (made.length < LONGEST) {
    const role = /** @type {"generated"} */ ("generated");
    const id = largest(rows[rows.length - 1].logits);
    const position = columns[columns.length - 1].position + 1;
    const name = `g${made.length}`;
    const column = { role, name, id, text: tokens.vocabulary[id], seen: 1, position };
    columns.push(column);
    made.push(id);
    if (id === tokens.end) break;
    rows.push(...read([column]));
  }
  const answer = tokens.decode(made);
  const milliseconds = performance.now() - start;
  return { columns, first, asks, answer, rows: rows.slice(first), computed, milliseconds };
}

/**
 * The likeliest tokens after a column, with their probabilities.
 * @param {Answered} answered
 * @param {number} column
 * @param {number} count
 * @returns {{id: number, share: number}[]} none for a column that was not read
 */
export function likeliest(answered, column, count) {
  const row = answered.rows[column - answered.first];
  if (!row) return [];
  const shares = softmax(row.logits.slice());
  const order = Array.from(shares, (share, id) => ({ id, share }));
  return order.sort((a, b) => b.share - a.share).slice(0, count);
}
