// The forward pass of a small Llama.
import { attend, emptyCache } from "./attention.js";
import { rotate } from "./rope.js";
import { add, gated, linear, rmsNorm } from "./tensors.js";

/**
 * @typedef {import("./attention.js").Cache} Cache
 *
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
 * @typedef {object} Rows what a forward pass reads
 * @property {Float32Array} embeddings [rows, hidden_size]
 * @property {number[]} positions of the rows
 * @property {ArrayLike<number>} mask 1: may be seen, for each token in the cache and each row
 * @property {Cache} cache grows by the rows
 * @property {Change} [change]
 * @property {(layer: number, row: number, head: number, shares: Float32Array) => void} [watch]
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

  /** How many numbers a key has, all its heads together. */
  get kvWidth() {
    return this.heads.kvHeads * this.heads.size;
  }

  /** @param {number} room in tokens */
  cache(room) {
    return emptyCache(this.config.num_hidden_layers, room, this.kvWidth);
  }

  /** @param {number[]} ids @returns {Float32Array} [ids, hidden_size] */
  embed(ids) {
    const width = this.config.hidden_size;
    const table = this.tensors["embed_tokens.weight"];
    const out = new Float32Array(ids.length * width);
    ids.forEach((id, i) => out.set(table.subarray(id * width, (id + 1) * width), i * width));
    return out;
  }

  /**
   * @param {Rows} rows
   * @returns {Float32Array} logits, [rows, vocabulary]
   */
  forward(rows) {
    const n = rows.positions.length;
    const x = rows.embeddings.slice();
    for (let layer = 0; layer < this.config.num_hidden_layers; layer++) {
      add(x, this._attention(layer, this._norm(x, n, `layers.${layer}.input_layernorm`), rows));
      add(
        x,
        this._mlp(layer, this._norm(x, n, `layers.${layer}.post_attention_layernorm`), rows),
      );
    }
    rows.cache.length += n;
    const table = this.tensors["embed_tokens.weight"]; // also the matrix of the logits
    return linear(this._norm(x, n, "norm"), n, table, table.length / this.config.hidden_size);
  }

  _norm(x, n, name) {
    return rmsNorm(x, n, this.tensors[`${name}.weight`], this.config.rms_norm_eps);
  }

  /**
   * One matrix of a layer, with what an adapter changes of it.
   * @param {number} layer
   * @param {string} name "self_attn.q_proj"
   * @param {Float32Array} x
   * @param {Rows} rows
   */
  _linear(layer, name, x, rows) {
    const n = rows.positions.length;
    const weight = this.tensors[`layers.${layer}.${name}.weight`];
    const height = weight.length / (x.length / n);
    const y = linear(x, n, weight, height);
    const low = rows.change && rows.change(layer, name.split(".")[1]);
    if (!low) return y;
    return add(y, linear(linear(x, n, low.a, low.rank), n, low.b, height), low.scale);
  }

  /** @param {number} layer @param {Float32Array} x @param {Rows} rows */
  _attention(layer, x, rows) {
    const { positions, cache, mask, watch } = rows;
    const { size } = this.heads;
    const theta = this.config.rope_theta;
    const project = (name) => this._linear(layer, `self_attn.${name}`, x, rows);
    const queries = rotate(project("q_proj"), positions, size, theta);
    const [k, v] = [cache.keys[layer], cache.values[layer]];
    k.set(rotate(project("k_proj"), positions, size, theta), cache.length * this.kvWidth);
    v.set(project("v_proj"), cache.length * this.kvWidth);
    const told = watch ? (row, head, shares) => watch(layer, row, head, shares) : null;
    const n = positions.length;
    const seen = attend(queries, n, k, v, cache.length, mask, this.heads, told);
    return this._linear(layer, "self_attn.o_proj", seen, rows);
  }

  /** @param {number} layer @param {Float32Array} x @param {Rows} rows */
  _mlp(layer, x, rows) {
    const gate = this._linear(layer, "mlp.gate_proj", x, rows);
    const up = this._linear(layer, "mlp.up_proj", x, rows);
    return this._linear(layer, "mlp.down_proj", gated(gate, up), rows);
  }
}
