// The forward pass of a small Llama.
import { attend } from "./attention.js";
import { rotate } from "./rope.js";
import { add, gated, linear, rmsNorm } from "./tensors.js";

/**
 * @typedef {object} Config as transformers names it
 * @property {number} hidden_size
 * @property {number} num_hidden_layers
 * @property {number} num_attention_heads
 * @property {number} num_key_value_heads
 * @property {number} head_dim
 * @property {number} rms_norm_eps
 * @property {number} rope_theta
 *
 * @typedef {Record<string, Float32Array>} Tensors by the names of the checkpoint
 *
 * A low-rank change of some layers: y + scale * B(A(x)).
 * @typedef {(layer: number, name: string) => {a: Float32Array, b: Float32Array, rank: number,
 *   scale: number} | null} Change
 *
 * A token at its place: what is given, and what the model makes of it. Keys and values of all rows
 * are what is elsewhere called the cache.
 * @typedef {object} Row
 * @property {number} number by which `Memory` knows it
 * @property {Float32Array | null} embedding null: keys and values are given, it is not read
 * @property {number} position
 * @property {Row[]} sees whom it may attend to, in their order
 * @property {Float32Array[]} keys [layer], those of all heads
 * @property {Float32Array[]} values the same
 * @property {Float32Array[][]} shares of attention: [layer][head], over the rows that it sees
 * @property {Float32Array | null} logits null: not read
 */

export class Llama {
  /** @param {Config} config @param {Tensors} tensors */
  constructor(config, tensors) {
    this.config = config;
    this.tensors = tensors;
    this.heads = {
      heads: config.num_attention_heads,
      kvHeads: config.num_key_value_heads,
      size: config.head_dim,
    };
  }

  /** @param {number} id @returns {Float32Array} */
  embedding(id) {
    const width = this.config.hidden_size;
    return this.tensors["embed_tokens.weight"].subarray(id * width, (id + 1) * width);
  }

  /**
   * Read rows: their keys, values, shares and logits are there afterwards. What they see was read
   * before, or is among them and stands in front.
   * @param {Row[]} rows
   * @param {Change | null} change
   */
  forward(rows, change) {
    const n = rows.length;
    const width = this.config.hidden_size;
    const x = new Float32Array(n * width);
    rows.forEach((row, r) => x.set(row.embedding, r * width));
    for (let layer = 0; layer < this.config.num_hidden_layers; layer++) {
      const at = { layer, change, n };
      add(x, this._attention(at, this._norm(x, n, `layers.${layer}.input_layernorm`), rows));
      add(x, this._mlp(at, this._norm(x, n, `layers.${layer}.post_attention_layernorm`)));
    }
    const table = this.tensors["embed_tokens.weight"]; // also the matrix of the logits
    const logits = linear(this._norm(x, n, "norm"), n, table, table.length / width);
    parts(logits, n).forEach((part, r) => (rows[r].logits = part));
  }

  _norm(x, n, name) {
    return rmsNorm(x, n, this.tensors[`${name}.weight`], this.config.rms_norm_eps);
  }

  /**
   * One matrix of a layer, with what an adapter changes of it.
   * @param {{layer: number, change: Change | null, n: number}} at `n` rows
   * @param {string} name "self_attn.q_proj"
   * @param {Float32Array} x
   */
  _linear({ layer, change, n }, name, x) {
    const weight = this.tensors[`layers.${layer}.${name}.weight`];
    const height = weight.length / (x.length / n);
    const y = linear(x, n, weight, height);
    const low = change && change(layer, name.split(".")[1]);
    if (!low) return y;
    return add(y, linear(linear(x, n, low.a, low.rank), n, low.b, height), low.scale);
  }

  /** @param {Float32Array} x @param {Row[]} rows */
  _attention(at, x, rows) {
    const positions = rows.map((row) => row.position);
    const project = (name) => this._linear(at, `self_attn.${name}`, x);
    const turned = (name) => {
      return rotate(project(name), positions, this.heads.size, this.config.rope_theta);
    };
    const queries = turned("q_proj");
    const keys = parts(turned("k_proj"), at.n);
    const values = parts(project("v_proj"), at.n);
    rows.forEach((row, r) => {
      row.keys[at.layer] = keys[r];
      row.values[at.layer] = values[r];
    });
    return this._linear(at, "self_attn.o_proj", attend(queries, rows, at.layer, this.heads));
  }

  /** @param {Float32Array} x */
  _mlp(at, x) {
    const gate = this._linear(at, "mlp.gate_proj", x);
    const up = this._linear(at, "mlp.up_proj", x);
    return this._linear(at, "mlp.down_proj", gated(gate, up));
  }
}

/** The `n` rows of a matrix. @param {Float32Array} x @param {number} n */
function parts(x, n) {
  const width = x.length / n;
  return Array.from({ length: n }, (_, r) => x.subarray(r * width, (r + 1) * width));
}
