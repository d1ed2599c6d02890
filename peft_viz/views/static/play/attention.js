// Attention with a cache of keys and values.
import { softmax } from "./tensors.js";

/**
 * Keys and values of what was read, layer by layer.
 * @typedef {{length: number, keys: Float32Array[], values: Float32Array[]}} Cache
 *
 * @typedef {{heads: number, kvHeads: number, size: number}} Heads
 */

/** @param {number} layers @param {number} room in tokens @param {number} width @returns {Cache} */
export function emptyCache(layers, room, width) {
  const make = () => Array.from({ length: layers }, () => new Float32Array(room * width));
  return { length: 0, keys: make(), values: make() };
}

/**
 * What each query takes from the values that it may see: those up to its own place in the cache
 * that the mask does not hide.
 * @param {Float32Array} queries [rows, heads * size]
 * @param {number} rows
 * @param {Float32Array} keys [tokens, kvHeads * size]
 * @param {Float32Array} values the same
 * @param {number} before tokens in the cache before the first of the queries
 * @param {ArrayLike<number>} mask 1: may be seen, for each token
 * @param {Heads} shape
 * @param {((row: number, head: number, shares: Float32Array) => void) | null} watch
 * @returns {Float32Array} [rows, heads * size]
 */
export function attend(queries, rows, keys, values, before, mask, shape, watch) {
  const { heads, kvHeads, size } = shape;
  const out = new Float32Array(rows * heads * size);
  const kvWidth = kvHeads * size;
  const scale = 1 / Math.sqrt(size);
  for (let r = 0; r < rows; r++) {
    for (let h = 0; h < heads; h++) {
      const q = (r * heads + h) * size;
      const group = Math.floor((h * kvHeads) / heads) * size;
      const shares = new Float32Array(before + r + 1);
      for (let t = 0; t < shares.length; t++) {
        let score = 0;
        const k = t * kvWidth + group;
        for (let j = 0; j < size; j++) score += queries[q + j] * keys[k + j];
        shares[t] = mask[t] ? score * scale : -Infinity;
      }
      softmax(shares);
      for (let t = 0; t < shares.length; t++) {
        const v = t * kvWidth + group;
        for (let j = 0; j < size; j++) out[q + j] += shares[t] * values[v + j];
      }
      if (watch) watch(r, h, shares);
    }
  }
  return out;
}
