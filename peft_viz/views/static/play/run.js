// One question, read and answered: where everything stands, and what the model makes of it.
import { largest, softmax } from "./tensors.js";

/**
 * @typedef {import("./llama.js").Llama} Llama
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
 * @property {Float32Array[]} logits for each column from `first` on
 * @property {Float32Array[][][]} shares of attention: [layer][head][query], each over the columns
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

/** A prefix goes into the cache: [tokens, 2 * layers, width], keys and values in turn. */
function fill(cache, prefix, virtual, width) {
  const layers = cache.keys.length;
  for (let v = 0; v < virtual; v++) {
    for (let layer = 0; layer < layers; layer++) {
      const at = (v * 2 * layers + 2 * layer) * width;
      cache.keys[layer].set(prefix.subarray(at, at + width), v * width);
      cache.values[layer].set(prefix.subarray(at + width, at + 2 * width), v * width);
    }
  }
  cache.length = virtual;
}

/**
 * Read the question, then write the likeliest letter until the end.
 * @param {Llama} model
 * @param {Tokens} tokens
 * @param {import("./packed.js").Packed} packed
 * @param {Asked} asked
 * @param {boolean} [whole] false: for the answer alone. Padding that nobody may see is not read
 *   (it changes nothing), and who attends to whom is not kept.
 * @returns {Answered}
 */
export function run(model, tokens, packed, asked, whole = true) {
  const start = performance.now();
  const { virtual, prompt, prefix, change } = learned(model, packed, asked);
  const columns = place(tokens, asked, virtual);
  const kept = columns.filter((c) => whole || c.seen || c.role !== "padding"); // in the cache
  const cache = model.cache(columns.length + LONGEST);
  if (prefix) fill(cache, prefix, virtual, model.kvWidth);
  const { num_hidden_layers: layers, num_attention_heads: heads } = model.config;
  const grid = () => Array.from({ length: heads }, () => []);
  /** @type {Float32Array[][][]} */
  const shares = Array.from({ length: whole ? layers : 0 }, grid);
  const watch = whole ? (layer, _, head, given) => shares[layer][head].push(given) : null;
  const size = tokens.vocabulary.length;
  const logits = [];

  const read = (from, embeddings) => {
    const rows = kept.slice(from);
    const positions = rows.map((c) => c.position);
    const mask = kept.map((c) => c.seen);
    const out = model.forward({ embeddings, positions, mask, cache, change, watch });
    rows.forEach((c, r) => {
      logits[columns.indexOf(c) - first] = out.slice(r * size, (r + 1) * size);
    });
    return largest(out.subarray(out.length - size));
  };
  const first = cache.length;
  const asks = columns.length - 1;
  const ids = kept.filter((c) => c.id != null).map((c) => c.id);
  const embeddings = model.embed(ids);
  let best = read(first, prompt ? joined(prompt, embeddings) : embeddings);
  const made = [];
  while (made.length < LONGEST) {
    const role = /** @type {"generated"} */ ("generated");
    const position = columns[columns.length - 1].position + 1;
    const name = `g${made.length}`;
    const column = { role, name, id: best, text: tokens.vocabulary[best], seen: 1, position };
    columns.push(column);
    kept.push(column);
    made.push(best);
    if (best === tokens.end) break;
    best = read(kept.length - 1, model.embed([best]));
  }
  const answer = tokens.decode(made);
  const milliseconds = performance.now() - start;
  return { columns, first, asks, answer, logits, shares, milliseconds };
}

function joined(a, b) {
  const out = new Float32Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

/**
 * The likeliest tokens after a column, with their probabilities.
 * @param {Answered} answered
 * @param {number} column
 * @param {number} count
 * @returns {{id: number, share: number}[]} none for a column that was not read
 */
export function likeliest(answered, column, count) {
  const scores = answered.logits[column - answered.first];
  if (!scores) return [];
  const shares = softmax(scores.slice());
  const order = Array.from(shares, (share, id) => ({ id, share }));
  return order.sort((a, b) => b.share - a.share).slice(0, count);
}
