// The numbers of a recorded tensor: a list, runs {"runs": [value, count, value, count, ...]},
// ramps {"ramps": [first, count, ...]} of numbers that count up by one, or what an earlier table
// has not {"grown": [index of the earlier one, the new numbers of each row]}.
// A file may say anything, so nothing here makes room for more than `MOST` numbers.
import { range } from "./text.js";

/** @typedef {number | string} Num  a number, or "nan", "inf", "-inf" */
/** @typedef {Num[] | {runs?: any[], ramps?: any[]} | null | undefined} Packed */

export const MOST = 2 ** 22;

/**
 * Runs and ramps alike: pairs of first number and count, and what is added from number to number.
 * @param {{runs?: any[], ramps?: any[]}} data
 * @returns {[any[], number]}
 */
const pairsOf = (data) => (data.runs ? [data.runs, 0] : [data.ramps || [], 1]);

/** How many numbers are kept. @param {Packed} data */
export function count(data) {
  if (!data) return 0;
  if (Array.isArray(data)) return data.length;
  const [pairs] = pairsOf(data);
  let n = 0;
  for (let i = 1; i < pairs.length; i += 2) n += pairs[i];
  return n;
}

/**
 * The word for a mask that is not drawn: was it kept?
 * @param {{data?: Packed, truncated?: boolean}} v
 */
export const tooLarge = (v) => (v.data && !v.truncated ? "huge_attention" : "large_attention");

/** How many a shape asks for. @param {number[]} shape */
export const size = (shape) => shape.reduce((a, b) => a * b, 1);

/**
 * The numbers one by one; null when none were kept, or more than can be shown.
 * @param {Packed} data
 * @returns {Num[] | null}
 */
export function unpack(data) {
  if (!data) return null;
  if (Array.isArray(data)) return data;
  if (!(count(data) <= MOST)) return null;
  const [pairs, step] = pairsOf(data);
  const out = [];
  for (let i = 0; i < pairs.length; i += 2) {
    for (let n = 0; n < pairs[i + 1]; n++) out.push(step ? pairs[i] + n : pairs[i]);
  }
  return out;
}

/**
 * Tables that are kept as what is new in them, written out; once, when a recording is opened.
 * @param {any[]} values
 */
export function writtenOut(values) {
  let room = MOST;
  values.forEach((v, i) => {
    const grown = v.data?.grown;
    if (!grown) return;
    const before = grown[0] < i ? unpack(values[grown[0]].data) : null;
    const [rows, n] = extent(v);
    room -= rows * n;
    const old = before ? before.length / rows : n;
    v.data = before && room >= 0 ? [] : null;
    for (let r = 0; v.data && r < rows; r++) {
      const fresh = grown.slice(1 + r * (n - old), 1 + (r + 1) * (n - old));
      v.data = v.data.concat(before.slice(r * old, (r + 1) * old), fresh);
    }
    if (!v.data) v.truncated = true;
  });
  return values;
}

/** Rows and columns of a table; a vector is one row. @param {{shape: number[]}} v */
export const extent = (v) => (v.shape.length === 2 ? v.shape : [1, v.shape[0]]);

/**
 * How an old table lies over a new one: was something put in front, or added behind?
 * @param {{shape: number[]}} v
 * @param {Num[]} now
 * @param {{shape: number[]}} was
 * @param {Num[]} old
 */
export function align(v, now, was, old) {
  const [rows, n] = extent(v);
  const o = extent(was)[1];
  const match = (long, a, part, b, from) =>
    range(rows).every((r) => range(b).every((c) => long[r * a + from + c] === part[r * b + c]));
  let shift = 0; // column of the new table above which the old one's first column stands
  if (n > o && match(now, n, old, o, n - o)) shift = n - o;
  if (n < o && match(old, o, now, n, o - n)) shift = n - o;
  const fresh = (r, c) => {
    const k = c - shift;
    return k < 0 || k >= o || now[r * n + c] !== old[r * o + k];
  };
  return { padBefore: Math.max(0, shift), padAfter: Math.max(0, -shift), fresh };
}
