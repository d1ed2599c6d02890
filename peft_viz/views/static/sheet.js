// One row of the batch on one grid of columns: what the caller passed, what the base model got, and
// the step at which each cell came to be. Nothing here needs a browser.
import { positionsOf } from "./measured.js";
import { extent } from "./numbers.js";
import { range } from "./text.js";

/**
 * @typedef {import("./steps.js").Recording} Recording
 * @typedef {import("./steps.js").Call} Call
 *
 * One line of cells. `values[c]` is null where the tensor has no such column, `born[c]` the number
 * of the step at which the cell came to be what it is.
 * @typedef {object} Line
 * @property {"ids" | "attention_mask" | "labels" | "positions" | "type_mask" | "numbers" |
 *   "loss_weights"} role  numbers: the ids as such
 * @property {(number | string | null)[]} values
 * @property {number[]} born
 * @property {boolean} [lost]  too large to be kept
 * @property {boolean} [aside]  for the loss alone: the base model does not get it
 *
 * @typedef {object} Sheet
 * @property {string} roles  one letter for each column
 * @property {(number | null)[] | null} ids
 * @property {number} start  columns before this one lie in the cache
 * @property {Line[]} passed
 * @property {Line[]} reached
 */

export const COLUMNS_SHOWN = 48; // at a time
const ORDER = ["ids", "attention_mask", "labels", "type_mask", "positions"];

/**
 * What the caller passed: role -> index of the value. A dictionary or a tuple is looked into.
 * @param {Recording} rec
 * @param {Call} root
 * @returns {Map<string, number>}
 */
export function passed(rec, root) {
  const found = new Map();
  const look = (i, deep) => {
    const v = rec.value(i);
    if (v?.kind === "tensor" && v.shape.length === 2 && ORDER.includes(v.role)) {
      if (!found.has(v.role)) found.set(v.role, i);
    } else if (deep && v?.items) Object.values(v.items).forEach((j) => look(j, false));
  };
  Object.values(root.args).forEach((i) => look(i, true));
  return found;
}

/**
 * The first step in [from, to] at which a value existed, in a variable or as an entry of one; `to`
 * when none is known.
 * @param {Recording} rec
 * @param {number | undefined} index
 */
export function madeAt(rec, index, from, to) {
  if (index == null) return to;
  const holds = (i) => i === index || Object.values(rec.value(i)?.items || []).includes(index);
  for (let k = from; k < to; k++) {
    const m = rec.moments[k];
    if (m.phase === "enter" && Object.values(m.call.args).includes(index)) return k;
    const changes = rec.settled(m)?.changes || [];
    if (changes.some((c) => holds(c.value))) return k;
  }
  return to;
}

/** The step behind the base call before this one, or the first of the whole call. */
function beginning(rec, base) {
  const root = rec.root(base);
  const before = rec.bases.filter((b) => b.last < base.first && rec.root(b) === root).pop();
  return { root, from: before ? before.last + 1 : root.first, first: !before };
}

/** A row of a table, where the table may have fewer rows: one for all, or one for several beams. */
function rowOf(rec, index, r, rows) {
  const v = rec.value(index);
  const data = rec.whole(index) ? rec.numbers(index) : null;
  if (!data) return null;
  const [n, width] = extent(v);
  const at = n === rows ? r : Math.floor((r * n) / rows);
  return data.slice(at * width, at * width + width);
}

/** Columns of the caller's tokens: those that are not virtual, from the left. */
const given = (roles, n) =>
  range(roles.length)
    .filter((c) => roles[c] !== "v")
    .slice(0, n);

/**
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} r  row of the batch
 * @returns {Sheet | null}
 */
export function sheet(rec, base, r) {
  return rec.once(`sheet ${base.id} ${r}`, () => makeSheet(rec, base, r));
}

/** @param {Recording} rec @param {Call} base @param {number} r @returns {Sheet | null} */
function makeSheet(rec, base, r) {
  const seq = rec.sequence(base.id);
  const row = seq?.rows[r];
  if (!row) return null;
  const { root, from, first } = beginning(rec, base);
  const rows = seq.rows.length;
  const above = passedLines(rec, root, row.roles, r, rows);
  return {
    roles: row.roles,
    ids: row.ids,
    start: seq.query_start,
    passed: above,
    reached: below(rec, base, row, r, above, { from, start: seq.query_start, first, root }),
  };
}

/**
 * What the caller passed, on the columns of `roles`.
 * @returns {Line[]}
 */
function passedLines(rec, root, roles, r, rows) {
  const total = roles.length;
  /** @type {any[]} */
  const lines = [];
  for (const [role, index] of passed(rec, root)) {
    const values = Array(total).fill(null);
    const numbers = rowOf(rec, index, r, rows);
    given(roles, extent(rec.value(index))[1]).forEach((c, i) => {
      values[c] = numbers ? numbers[i] : null;
    });
    const line = { role, values, born: Array(total).fill(root.first), lost: !numbers };
    lines.push(line);
    if (role === "ids" && numbers) lines.push({ ...line, role: "numbers" });
  }
  const order = [...ORDER, "numbers"];
  return lines.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
}

/**
 * What the caller passed to a call that never reached the base model; null where that is no table.
 * @param {Recording} rec
 * @param {Call} root
 * @param {number} r  row of the batch
 * @returns {(Sheet & {rows: number}) | null}
 */
export function passedSheet(rec, root, r) {
  const theirs = passed(rec, root);
  const first = theirs.get("ids") ?? theirs.get("attention_mask");
  if (first == null) return null;
  const [rows, total] = extent(rec.value(first));
  const row = Math.min(r, rows - 1);
  const [ids, mask] = ["ids", "attention_mask"].map((role) => {
    return theirs.has(role) ? rowOf(rec, theirs.get(role), row, rows) : null;
  });
  const roles = range(total).map((c) => (mask?.[c] === 0 ? "p" : "t")).join("");
  const lines = passedLines(rec, root, roles, row, rows);
  return { roles, ids, start: 0, passed: lines, reached: [], rows };
}

/** What the base model got. */
function below(rec, base, row, r, above, { from, start, first, root }) {
  const total = row.roles.length;
  const arg = (...names) => names.map((n) => base.args[n]).find((i) => rec.value(i)?.shape);
  const made = (i) => madeAt(rec, i, from, base.first);
  const had = new Map(above.map((l) => [l.role, l]));
  // a cell that the caller passed, and that is still what it was, is as old as the call
  const born = (role, values, at) => {
    const old = had.get(role)?.values;
    return values.map((x, c) => (old && old[c] != null && old[c] === x ? root.first : at));
  };
  const embeds = made(arg("inputs_embeds", "input_ids"));
  const cache = made(arg("past_key_values"));
  const tokens = range(total).map((c) => {
    if (c < start) return first && row.roles[c] === "v" ? cache : root.first;
    return row.roles[c] === "v" ? embeds : first ? root.first : from;
  });
  /** @type {Line[]} */
  const lines = [{ role: "ids", values: [...row.roles], born: tokens }];
  const add = (role, values, at, aside = false) => {
    const lost = row.unkept?.includes({ attention_mask: "attended" }[role] || role);
    if (!lost && !values?.some((x) => x != null && x !== "")) return;
    const cells = lost ? Array(total).fill(null) : values;
    const line = { role, values: cells, born: born(role, cells, at), lost, aside };
    lines.push(/** @type {any} */ (line));
  };
  const bits = [...(row.attended || "")].map((b) => (b === "0" || b === "1" ? +b : null));
  add("attention_mask", bits, made(arg("attention_mask")));
  add("labels", row.labels, made(arg("labels")));
  const rows = rec.sequence(base.id).rows.length;
  const theirs = arg("input_type_mask", "token_type_ids");
  const types = theirs ?? local(rec, base, from, "type_mask", [total]);
  const kinds = types == null ? null : rowOf(rec, types, r, rows);
  if (kinds?.length === total) add("type_mask", kinds, made(types), theirs == null);
  const measured = positionsOf(rec, base, r);
  const where = row.positions?.some((x) => x != null) ? row.positions : null;
  const positions = measured
    ? [...Array(total - measured.length).fill(null), ...measured]
    : where;
  // the layers used what was passed to them, or made positions of their own
  const same = measured && where?.slice(-measured.length).join() === measured.join();
  const index = measured && !same ? undefined : arg("position_ids");
  add("positions", positions, made(index));
  const given = arg("input_ids");
  if (given != null && row.ids) {
    add(
      "numbers",
      row.ids.map((x, c) => (c < start ? null : x)),
      made(given),
    );
  }
  // the loss is computed behind the base model; the first token is predicted from nothing
  const widths = [total - 1, total];
  const weights = row.labels && local(rec, base, base.last, "loss_weights", widths);
  const counts = weights == null ? null : rowOf(rec, weights, r, rows);
  if (counts) {
    const all = counts.length < total ? [null, ...counts] : counts;
    const told = all.map((x, c) => (row.labels[c] == null || row.labels[c] === -100 ? null : x));
    add("loss_weights", told, madeAt(rec, weights, base.last, endOf(rec, base)), true);
  }
  return lines;
}

/** The step at which the next base call begins, or at which the whole call ends. */
function endOf(rec, base) {
  const root = rec.root(base);
  const next = rec.bases.find((b) => b.first > base.last && rec.root(b) === root);
  return next ? next.first : root.last;
}

/**
 * The last local variable of a role and a width that a step from `from` on made for this call: a
 * table that does not reach the base model itself. Undefined when there is none.
 * @param {Recording} rec
 * @param {Call} base
 * @param {number} from
 * @param {string} role
 * @param {number[]} widths
 * @returns {number | undefined}
 */
function local(rec, base, from, role, widths) {
  const to = from < base.first ? base.first : endOf(rec, base);
  let found;
  for (let k = from; k <= to; k++) {
    for (const change of rec.settled(rec.moments[k])?.changes || []) {
      const v = rec.value(change.value);
      if (v?.role !== role || v.shape?.length !== 2 || !widths.includes(v.shape[1])) continue;
      if (rec.whole(change.value)) found = change.value;
    }
  }
  return found;
}

/** The row to begin with: the first that has padding, else row 0. @param {Recording} rec */
export function tellingRow(rec) {
  const base = rec.bases[0];
  const rows = (base && rec.sequence(base.id)?.rows) || [];
  return Math.max(
    0,
    rows.findIndex((row) => row.roles.includes("p")),
  );
}
