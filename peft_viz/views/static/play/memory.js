// The rows that the model has read. What it makes of a row depends on what stands there, on its
// position, on the rows that it sees and on the adapter: where all of that is as it was, nothing is
// computed again. So a masked padding token, whom no row sees, changes none of the others.

/** @typedef {import("./llama.js").Row} Row */

const MOST = 3000; // rows, of some 6 kB each

export class Memory {
  /** @type {Map<string, Row>} */
  rows = new Map();
  _made = 0;

  /** Called between two runs: a run holds on to its rows. */
  shrink() {
    if (this.rows.size > MOST) this.rows.clear();
  }

  /**
   * @param {string} what stands there, and which adapter changes the layers
   * @param {Row[]} before the rows in front of it that it sees
   * @param {boolean} seen does it see itself, and do later ones see it?
   * @param {{embedding: Float32Array | null, position: number, keys?: Float32Array[],
   *   values?: Float32Array[]}} given
   * @returns {Row}
   */
  row(what, before, seen, given) {
    const key = [what, given.position, seen, ...before.map((row) => row.number)].join(" ");
    const known = this.rows.get(key);
    if (known) return known;
    const made = { keys: [], values: [], shares: [], logits: null, ...given };
    /** @type {Row} */
    const row = { number: this._made++, sees: [...before], ...made };
    if (seen) row.sees.push(row);
    this.rows.set(key, row);
    return row;
  }
}
