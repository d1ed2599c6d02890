// What was measured inside a call of the base model: positions, next tokens, weights. Nothing here
// needs a browser.
import { extent } from "./numbers.js";
import { finished } from "./steps.js";
import { range } from "./text.js";

/**
 * @typedef {import("./steps.js").Recording} Recording
 * @typedef {import("./steps.js").Call} Call
 * @typedef {{id: number, text: string | null, chance: number}} Likely
 * @typedef {{shape: number[], at: (...index: number[]) => number}} Fractions
 */

/** The rows of a small table of numbers; null when they were not all kept. */
function rowsOf(rec, index) {
  if (index == null || !rec.whole(index)) return null;
  const [rows, n] = extent(rec.value(index));
  const data = rec.numbers(index);
  return data && range(rows).map((r) => data.slice(r * n, r * n + n));
}

/**
 * The positions of this call's queries as the layers used them: a list for each row. Where a model
 * counts in several directions that differ, a position is written "1,2,3".
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} r
 * @returns {(number | string)[] | null}
 */
export function positionsOf(rec, base, r) {
  const found = base.measured?.positions;
  if (!found?.values?.length) return null;
  const tables = found.values.map((i) => rowsOf(rec, i));
  if (tables.some((t) => !t)) return null;
  const rows = tables.map((t) => t[t.length === 1 ? 0 : r]);
  if (rows.some((x) => !x)) return null;
  return rows[0].map((x, i) => {
    const all = rows.map((row) => row[i]);
    return all.every((y) => y === x) ? x : all.join(",");
  });
}

/**
 * The likeliest next tokens of a row, the likeliest first.
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} r
 * @returns {Likely[] | null}
 */
export function likelyOf(rec, base, r) {
  const found = base.measured?.next_tokens;
  const ids = found && rowsOf(rec, found.ids)?.[r];
  const chances = found?.probabilities?.[r];
  if (!ids || !chances) return null;
  return ids.map((id, i) => ({ id, text: rec.text(id), chance: +chances[i] }));
}

/**
 * Had a row ended before a call: was the token that ends it written, or padding behind it?
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} r
 */
export function ended(rec, base, r) {
  const row = rec.sequence(base.id)?.rows[r];
  return Boolean(row) && finished(row, rec.about.eos_token_ids);
}

/**
 * The token that `generate` took after a call, from what the model said; null outside of generate,
 * for a row that had ended, or where nothing says it.
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} r
 * @returns {number | null}
 */
export const takenAfter = (rec, base, r) => (ended(rec, base, r) ? null : putAfter(rec, base, r));

/** What `generate` put behind a row: the token taken, or padding where the row had ended. */
export function putAfter(rec, base, r) {
  const stage = rec.caches.get(base.id)?.stage;
  if (!stage || stage === "forward") return null;
  const root = rec.root(base);
  const later = rec.bases.find((b) => b.first > base.first && rec.root(b) === root);
  if (later) {
    const row = rec.sequence(later.id)?.rows[r];
    return row?.ids?.[row.roles.length - 1] ?? null;
  }
  const out = rec.value(root.returned);
  const index = out?.kind === "mapping" ? out.items?.sequences : root.returned;
  const rows = rec.value(index)?.role === "ids" ? rowsOf(rec, index) : null;
  const mine = rec.sequence(base.id)?.rows.length;
  return rows && rows.length === mine ? (rows[r][rows[r].length - 1] ?? null) : null;
}

/**
 * Numbers from 0 to 1, two bytes each, as base64.
 * @param {{shape: number[], data: string} | null | undefined} packed
 * @returns {Fractions | null}
 */
export function fractions(packed) {
  if (!packed) return null;
  const { shape } = packed;
  const bytes = atob(packed.data);
  const at = (...index) => {
    const i = index.reduce((n, x, d) => n * shape[d] + x, 0);
    return (bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1)) / 65535;
  };
  return { shape, at };
}

const DECODED = new WeakMap();

/**
 * The attention weights that were kept of a call, a layer each.
 * @param {Call} base
 * @returns {{layer: number, share: Fractions | null, full: Fractions | null, why?: string}[]}
 */
export function weightsOf(base) {
  const all = base.measured?.weights || [];
  if (!DECODED.has(all)) {
    const one = (w) => ({ ...w, share: fractions(w.share), full: fractions(w.full) });
    DECODED.set(all, all.map(one));
  }
  return DECODED.get(all);
}

/**
 * The mean share of the queries' attention that falls on virtual tokens, per head.
 * @param {Fractions} share  [batch, heads, queries]
 * @param {number} r
 * @param {string} roles  of the queries
 * @returns {number[]}
 */
export function meanShare(share, r, roles) {
  const [, heads, queries] = share.shape;
  const asking = range(queries).filter((q) => roles[q] === "t" || roles[q] === "g");
  const of = asking.length ? asking : range(queries);
  return range(heads).map((head) => of.reduce((n, q) => n + share.at(r, head, q), 0) / of.length);
}
