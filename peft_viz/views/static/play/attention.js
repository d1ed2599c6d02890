// Attention: what a row takes from the rows that it sees.
import { softmax } from "./tensors.js";

/**
 * @typedef {import("./llama.js").Row} Row
 *
 * @typedef {{heads: number, kvHeads: number, size: number}} Heads
 */

/**
 * What each query takes from the values of the rows that it sees. The shares are kept in the row.
 * @param {Float32Array} queries [rows, heads * size]
 * @param {Row[]} rows whose keys and values of this layer are there
 * @param {number} layer
 * @param {Heads} shape
 * @returns {Float32Array} [rows, heads * size]
 */
export function attend(queries, rows, layer, shape) {
  const { heads, kvHeads, size } = shape;
  const out = new Float32Array(queries.length);
  const scale = 1 / Math.sqrt(size);
  rows.forEach(({ sees, shares: kept }, r) => {
    const keys = sees.map((row) => row.keys[layer]);
    const values = sees.map((row) => row.values[layer]);
    kept[layer] = [];
    for (let h = 0; h < heads; h++) {
      const q = (r * heads + h) * size;
      const group = Math.floor((h * kvHeads) / heads) * size;
      const shares = new Float32Array(sees.length);
      for (let t = 0; t < shares.length; t++) {
        let score = 0;
        const key = keys[t];
        for (let j = 0; j < size; j++) score += queries[q + j] * key[group + j];
        shares[t] = score * scale;
      }
      softmax(shares);
      for (let t = 0; t < shares.length; t++) {
        const value = values[t];
        for (let j = 0; j < size; j++) out[q + j] += shares[t] * value[group + j];
      }
      kept[layer].push(shares);
    }
  });
  return out;
}
