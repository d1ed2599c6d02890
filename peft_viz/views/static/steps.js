// The recording as one line of moments. Nothing here needs a browser.
import { maskOfRow } from "./masks.js";
import { count, size, unpack, writtenOut } from "./numbers.js";
import { range } from "./text.js";

/**
 * @typedef {object} Value  one recorded value; see peft_viz/recording/trace.py
 * @property {"tensor" | "cache" | "scalar" | "sequence" | "mapping" | "object"} kind
 * @property {string} [type]
 * @property {number[]} shape  of tensors and caches
 * @property {string} [dtype]
 * @property {string} [role]
 * @property {any} [data]
 * @property {boolean} [truncated]
 * @property {boolean} [attended]
 * @property {any} [value]
 * @property {number} [length]
 * @property {any} [items]
 *
 * @typedef {{name: string, value: number | null, before: number | null, how: string,
 *   aliases: string[], part?: boolean}} Change
 * @typedef {{line: number, branch: boolean | null, changes: Change[], calls: number[]}} Step
 *
 * @typedef {object} Call  one recorded call; the last five are added here
 * @property {"peft" | "base" | "layer"} kind
 * @property {string} function
 * @property {number | null} parent
 * @property {number | null} source
 * @property {Record<string, number>} args
 * @property {Step[]} steps
 * @property {number | null} returned
 * @property {{type: string, message: string, line: number | null} | null} raised
 * @property {{layers: number[], value: number | null, how: string}[]} attention
 * @property {Record<string, number>} outputs
 * @property {number} id
 * @property {number} [depth]
 * @property {number} [first]  number of its first moment
 * @property {number} [last]  number of its last moment
 * @property {any} [measured]  inside a base call; see measured.js
 * @property {number[]} [at]  number of the moment that shows each step done
 *
 * One moment per line that ran. A line that calls something watched is two: on the way "into"
 * the calls, and when it is done. "enter" the function, "leave" at its last line, "whole": a
 * call that was not stepped into.
 * @typedef {{call: Call, step: number,
 *   phase: "enter" | "line" | "into" | "leave" | "whole"}} Moment
 *
 * A moment of the story: one sentence about one thing that happened.
 * @typedef {{kind: string, text: any, names?: string[], before?: any, after?: any,
 *   k: number, base: Call | null, at: {call: Call, step: number}}} Scene  k: number of the step
 *
 * @typedef {{roles: string, ids: (number | null)[] | null, attended: string | null,
 *   labels: (number | null)[] | null, positions: (number | null)[] | null,
 *   unkept?: string[]}} Row  unkept: names of what was too large to be kept
 * @typedef {{call: number, query_start: number, rows: Row[]}} Sequence
 * @typedef {{roles: string, ids: (number | null)[] | null}} Columns  what stands at each column
 */

// the functions that one reads first; whatever else they call are helpers
const MAIN = /(^|\.)(forward|_cpt_forward|generate|prepare_inputs_for_generation)$/;
// moments that are known when a call has ended
export const AFTERWARDS = new Set(
  "logits loss token returned alike raised stopped came_back".split(" "),
);
const FEW_MADE = 12; // results of `once` that are kept
const DEEPEST = 1000; // calls inside one another; Python itself stops there

const NO_LIST = /** @type {any[]} */ (Object.freeze([]));
const NO_NAMES = Object.freeze({});

/** Put in again what a payload leaves out because it is empty. @param {Call} c */
function filled(c) {
  c.parent ??= null;
  c.source ??= null;
  c.returned ??= null;
  c.raised ??= null;
  c.args ||= NO_NAMES;
  c.outputs ||= NO_NAMES;
  c.steps ||= NO_LIST;
  c.attention ||= NO_LIST;
  // made anew: objects whose fields were made in one order need less memory
  c.steps = c.steps.map(({ line, branch = null, changes = NO_LIST, calls = NO_LIST }) => {
    for (const change of changes) change.aliases ||= NO_LIST;
    return { line, branch, changes, calls };
  });
}

export class Recording {
  /** @param {any} payload */
  constructor(payload) {
    const t = payload.trace;
    this.payload = payload;
    this.about = t.about || {};
    this.tokens = t.tokens;
    /** @type {Value[]} */
    this.values = writtenOut(t.values);
    this.sources = t.sources;
    /** @type {Call[]} */
    this.calls = t.calls;
    /** @type {Moment[]} */
    this.moments = [];
    this.data = new Map();
    this.made = new Map();
    /** @type {number[][]} */
    this.inner = this.calls.map(() => NO_LIST);
    this.calls.forEach((c, i) => {
      filled(c);
      c.id = i;
      if (c.parent == null) return;
      if (this.inner[c.parent] === NO_LIST) this.inner[c.parent] = [];
      this.inner[c.parent].push(i);
    });
    this.calls.forEach((c) => {
      if (c.parent == null) this._walk(c, 0);
    });
    this.moments = this.moments.slice();
    this.bases = this.calls.filter((c) => c.kind === "base" && c.first != null);
    this.layouts = new Map();
    this.packed = new Map((payload.layout?.sequences || []).map((l) => [l.call, l]));
    this.caches = new Map((payload.layout?.caches || []).map((c) => [c.call, c]));
    this.decodes = this.bases.some((b) => this.caches.get(b.id)?.stage === "decode");
    /** @type {Scene[]} */
    this.story = (payload.story || []).flatMap((scene) => this._scene(scene));
    const first = this.bases[0];
    if (this.story.length && first) {
      const at = { call: this.root(first), step: -1 };
      this.story.unshift({ kind: "short", text: "", k: 0, base: first, at });
    }
  }

  // A moment of the story and the step at which it happens; none where it points to nothing.
  _scene(scene) {
    const call = this.calls[scene.call];
    if (call?.first == null) return [];
    const own = scene.step == null ? null : call.at?.[scene.step];
    const k = own ?? (AFTERWARDS.has(scene.kind) ? call.last : call.first);
    const base = scene.base == null ? null : this.calls[scene.base] || null;
    return [{ ...scene, k, base, at: { call, step: scene.step ?? -1 } }];
  }

  /** The moment of the story that a step belongs to: the last one up to it. @param {number} k */
  sceneAt(k) {
    let found = 0; // the sentence in short, where one begins
    this.story.forEach((scene, i) => {
      if (scene.k <= k) found = i;
    });
    return found;
  }

  // A call is walked once, below the call that made it, whatever the steps of others say.
  _walk(c, depth) {
    if (depth > DEEPEST) throw new Error(`calls stand more than ${DEEPEST} deep in one another`);
    const push = (phase, step) => this.moments.push({ call: c, step, phase });
    const last = c.steps.length - 1;
    const left = new Set(this.inner[c.id]);
    const down = (ids) => {
      for (const i of ids) if (left.delete(i)) this._walk(this.calls[i], depth + 1);
    };
    const placed = new Set(c.steps.flatMap((x) => x.calls));
    const loose = this.inner[c.id].filter((i) => !placed.has(i));
    c.depth = depth;
    c.first = this.moments.length;
    c.at = [];
    if (!c.steps.length && !left.size) push("whole", -1);
    else {
      push("enter", -1);
      down(loose);
      c.steps.forEach((step, i) => {
        if (step.calls.some((k) => left.has(k))) {
          push("into", i);
          down(step.calls);
        }
        c.at.push(this.moments.length);
        push(i === last ? "leave" : "line", i);
      });
      if (!c.steps.length) push("leave", -1);
    }
    c.at = c.at.slice(); // without the room that a growing list keeps
    c.last = this.moments.length - 1;
  }

  /** @param {number | null | undefined} i @returns {Value | null} */
  value(i) {
    return i == null ? null : this.values[i];
  }

  /** The numbers of a value; null when none were kept. @param {number} i */
  numbers(i) {
    if (!this.data.has(i)) this.data.set(i, unpack(this.values[i].data));
    return this.data.get(i);
  }

  /** Were all numbers of a value kept? @param {number} i */
  whole(i) {
    const v = this.values[i];
    return v.kind === "tensor" && !v.truncated && !!v.data && count(v.data) === size(v.shape);
  }

  /** The text of a token id, null when unknown. @param {any} id @returns {string | null} */
  text(id) {
    const t = this.tokens?.[id];
    return t == null ? null : t;
  }

  /** @param {Call} c */
  root(c) {
    while (c.parent != null) c = this.calls[c.parent];
    return c;
  }

  /**
   * The variables at a moment: name -> its value and how it just changed. The entries of a
   * dictionary stand under names of their own: `kwargs['labels']`.
   * @param {Moment} m
   * @returns {Map<string, {index: number, change: Change | null}>}
   */
  variables(m) {
    const vars = new Map();
    const put = (name, index, change) => {
      const whole = !name.includes("[");
      if (whole) for (const k of [...vars.keys()]) if (k.startsWith(name + "[")) vars.delete(k);
      vars.set(name, { index, change });
      const v = this.value(index);
      if (v.kind !== "mapping" || !whole) return;
      const part = change && { ...change, before: null, aliases: [], part: true };
      for (const [k, i] of Object.entries(v.items)) {
        vars.set(`${name}['${k}']`, { index: i, change: part });
      }
    };
    for (const [name, i] of Object.entries(m.call.args)) put(name, i, null);
    const done = m.phase === "into" ? m.step - 1 : m.step;
    for (let i = 0; i <= done; i++) {
      for (const change of m.call.steps[i].changes) {
        const now = i === m.step ? change : null;
        if (change.value != null) put(change.name, change.value, now);
        else if (now && change.before != null)
          vars.set(change.name, { index: change.before, change });
        else vars.delete(change.name);
      }
    }
    return vars;
  }

  /**
   * The step whose changes and condition a moment shows; null where it shows none.
   * @param {Moment} m
   */
  settled(m) {
    return m.phase === "line" || m.phase === "leave" ? m.call.steps[m.step] || null : null;
  }

  /** Has a tensor or a cache changed at this moment? @param {Moment} m */
  changesTensor(m) {
    const kinds = (c) => [c.value, c.before].map((i) => this.value(i)?.kind);
    return !!this.settled(m)?.changes.some((c) => {
      return kinds(c).some((kind) => kind === "tensor" || kind === "cache");
    });
  }

  /** Has a condition been decided at this moment? @param {Moment} m */
  decides(m) {
    return this.settled(m)?.branch != null;
  }

  /** Is a call another one, or made below it? @param {Call} c @param {Call} outer */
  isInside(c, outer) {
    while (c !== outer && c.parent != null) c = this.calls[c.parent];
    return c === outer;
  }

  /** Is a moment inside a small function that the main ones call? @param {Moment} m */
  inHelper(m) {
    for (let c = m.call; c.parent != null; c = this.calls[c.parent]) {
      if (c.kind === "peft" && !MAIN.test(c.function)) return true;
    }
    return false;
  }

  /**
   * The nearest moment after (or before) `from` for which `test` holds; null when there is none.
   * @param {number} from
   * @param {1 | -1} by
   * @param {(m: Moment) => boolean} test
   */
  seek(from, by, test) {
    for (let k = from + by; k >= 0 && k < this.moments.length; k += by) {
      if (test(this.moments[k])) return k;
    }
    return null;
  }

  /** Lines that ran so far, conditions decided, lines that these left out. @param {Moment} m */
  path(m) {
    const ran = new Map();
    const decided = new Map();
    const off = new Set();
    const source = this.sources[m.call.source];
    const end = source.first_line + source.text.split("\n").length;
    const upto = m.phase === "into" ? m.step - 1 : m.step;
    m.call.steps.slice(0, m.step + 1).forEach((x) => ran.set(x.line, (ran.get(x.line) || 0) + 1));
    m.call.steps.slice(0, upto + 1).forEach((x) => {
      if (x.branch != null) decided.set(x.line, x.branch);
    });
    for (const b of source.branches) {
      if (!decided.has(b.line)) continue;
      const other = b.orelse && [b.body[1] + 1, b.orelse[1]];
      const span = decided.get(b.line) ? other : b.body[0] > b.end && b.body;
      if (!span) continue;
      for (let l = Math.max(span[0], source.first_line); l <= Math.min(span[1], end); l++) {
        if (!ran.has(l)) off.add(l);
      }
    }
    return { ran, decided, off };
  }

  _bases(k) {
    const root = this.root(this.moments[k].call);
    return this.bases.filter((b) => this.root(b) === root);
  }

  /**
   * The base call to show at a moment: the last one that has begun, else the first to come.
   * @param {number} k
   * @returns {Call | null}
   */
  base(k) {
    const mine = this._bases(k);
    const begun = mine.filter((b) => b.first <= k);
    return begun[begun.length - 1] || mine[0] || null;
  }

  /**
   * The base call for which the variables of a moment are made.
   * @param {number} k
   * @returns {Call | null}
   */
  nextBase(k) {
    const mine = this._bases(k);
    return mine.find((b) => b.last >= k) || mine[mine.length - 1] || null;
  }

  /**
   * The key axis of a base call. A decoding step is sent as what it adds to the step before it.
   * @param {number} id
   * @returns {Sequence | null}
   */
  sequence(id) {
    const chain = [];
    for (
      let at = this.packed.get(id);
      at && !this.layouts.has(at.call);
      at = this.packed.get(at.from)
    ) {
      chain.push(at);
      if (at.from == null) break;
      if (chain.length > this.packed.size)
        throw new Error("sequences that begin with one another");
    }
    for (const l of chain.reverse()) {
      const before = l.from == null ? null : this.layouts.get(l.from);
      const whole = (row, r) => {
        const out = {};
        for (const [name, x] of Object.entries(row)) {
          out[name] =
            x && x.keep != null ? before.rows[r][name].slice(0, x.keep).concat(x.add) : x;
        }
        return out;
      };
      this.layouts.set(l.call, { ...l, rows: before ? l.rows.map(whole) : l.rows });
    }
    return this.layouts.get(id) || null;
  }

  /**
   * What stands at each column of a table, per row: marks as letters, and ids. From the key axis
   * of the base call when the table has its length; else from a mask of the same length beside it.
   * @param {Value} v
   * @param {string} name
   * @param {Call | null} base
   * @param {string | null} mask  the bits of the mask beside it, all rows in one
   * @param {any[] | null} ids  the token ids beside it
   * @returns {Columns[] | null}
   */
  columns(v, name, base, mask = null, ids = null) {
    if (!v || v.kind !== "tensor" || v.shape.length < 2) return null;
    const [rows, n] = v.shape;
    const virtual = this.about.num_virtual_tokens || 0;
    if (!(rows * n <= 1e6)) return null;
    if (virtual && n === virtual && /prefix|prompt/.test(name)) {
      return range(rows).map(() => ({ roles: "v".repeat(n), ids: null }));
    }
    const seq = base && this.sequence(base.id);
    const generating = base && this.caches.get(base.id)?.stage !== "forward";
    if (seq?.rows.length && (rows === seq.rows.length || rows === 1)) {
      // virtual tokens behind padding stand in other columns in each row
      const found = this.once(`columns ${base.id} ${rows} ${n}`, () => {
        const at = range(rows).map((r) => axis(seq, n, generating, r));
        return at.map((way, r) => way && pickColumns(seq.rows[r], way, this.about.eos_token_ids));
      });
      if (found[0]) return found;
    }
    if (mask?.length !== rows * n) return null;
    return range(rows).map((r) => {
      const bits = mask.slice(r * n, r * n + n);
      const roles = bits.replace(/1/g, "t").replace(/0/g, "p");
      return { roles, ids: ids && ids.slice(r * n, r * n + n) };
    });
  }

  /**
   * The attention measured in a base call, a row at a time.
   * @param {{value: number | null}} group
   * @param {number} row
   */
  mask(group, row) {
    const make = () => maskOfRow(/** @type {any} */ (this.value(group.value)), row);
    return this.once(`mask ${group.value} ${row}`, make);
  }

  /**
   * What `make` gives, made once: the last few results are kept.
   * @template T
   * @param {string} key
   * @param {() => T} make
   * @returns {T}
   */
  once(key, make) {
    if (!this.made.has(key)) {
      if (this.made.size >= FEW_MADE) this.made.delete(this.made.keys().next().value);
      this.made.set(key, make());
    }
    return this.made.get(key);
  }
}

/**
 * Which columns of the key axis a table of `n` columns has: all, this call's inputs, or those that
 * are not virtual; in generate, one more: the token chosen last, which no call has got yet.
 * @param {Sequence} seq
 * @param {number} n
 * @param {boolean} generating
 * @param {number} r  the row
 * @returns {number[] | null}  -1 stands for a token just generated
 */
export function axis(seq, n, generating, r = 0) {
  const all = range(seq.rows[r].roles.length);
  const real = all.filter((k) => seq.rows[r].roles[k] !== "v");
  const ways = [all, all.slice(seq.query_start), real];
  if (generating) ways.push([...real, -1], [...all, -1]);
  return ways.find((way) => way.length === n) || null;
}

/**
 * @param {Row} row
 * @param {number[]} at
 * @param {number[]} ends  ids that finish a row: what generate puts behind them is padding
 * @returns {Columns}
 */
function pickColumns(row, at, ends) {
  const next = finished(row, ends) ? "p" : "g";
  return {
    roles: at.map((k) => (k < 0 ? next : row.roles[k])).join(""),
    ids: row.ids && at.map((k) => (k < 0 ? null : row.ids[k])),
  };
}

/**
 * Had a row of generate ended: does it hold the token that ends it, or padding behind that?
 * @param {Row} row
 * @param {number[]} ends  ids that finish a row
 */
export function finished(row, ends = []) {
  const last = row.roles.length - 1;
  return row.roles.includes("g") && (row.roles[last] === "p" || ends.includes(row.ids?.[last]));
}
