// Figures of recorded values: small cells, all of one width, so that the n-th cell of one tensor
// stands below the n-th cell of another.
import { h } from "./dom.js";
import { align, count, extent, size, tooLarge } from "./numbers.js";
import { hollow, numberText, range, seen } from "./text.js";
import { drawGrid, stretches } from "./grid.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Value} Value
 * @typedef {import("./steps.js").Columns} Columns
 *
 * What is known beside the value that is drawn.
 * @typedef {object} Beside
 * @property {import("./steps.js").Call | null} base  the base call it is made for
 * @property {string} key  the same where all of this is the same
 * @property {Map<string, string>} masks  "rows,columns" -> bits of a mask of this size
 * @property {Map<string, any[]>} ids  "rows,columns" -> token ids of this size
 */

const ROWS = 4; // drawn of one table, at most
const COLUMNS = 120; // of a longer table: LONG columns, the first or where something changed
const LONG = 40;

/** How many columns of n are drawn. @param {number} n */
const drawnOf = (n) => (n > COLUMNS ? LONG : n);

/**
 * The column to begin with: 0, or a little before the first change that would not be seen.
 * @param {number} rows
 * @param {number} n
 * @param {((row: number, column: number) => boolean) | null} fresh
 */
export function beginOf(rows, n, fresh) {
  if (!fresh || n <= COLUMNS) return 0;
  const first = range(n).find((c) => range(Math.min(rows, ROWS)).some((r) => fresh(r, c)));
  return first >= LONG ? Math.min(first - 4, n - LONG) : 0;
}

/**
 * @param {View} view
 * @param {import("./steps.js").Call | null} base
 * @param {Iterable<[string, number]>} entries  what exists; the first of a size counts
 * @returns {Beside}
 */
export function beside(view, base, entries) {
  const near = { base, key: String(base?.id), masks: new Map(), ids: new Map() };
  for (const [name, i] of entries) {
    const v = view.rec.value(i);
    const kept = { attention_mask: near.masks, ids: near.ids }[v?.role];
    if (!kept || v.shape.length !== 2 || !view.rec.whole(i)) continue;
    const [size, data] = [v.shape.join(), view.rec.numbers(i)];
    if (!data || kept.has(size) || /prefix|prompt/.test(name)) continue; // theirs is another size
    near.key += `,${i}`;
    const bits = () => data.map((x) => (x ? "1" : "0")).join("");
    kept.set(size, kept === near.ids ? data : view.rec.once(`bits ${i}`, bits));
  }
  return near;
}

/** @param {View} view @param {Value} v @param {string} name @param {Beside} near */
function columnsOf(view, v, name, near) {
  const [rows, n] = v.shape.length === 3 ? v.shape : extent(v);
  const size = [rows, n].join();
  const [mask, ids] = [near.masks.get(size) || null, near.ids.get(size) || null];
  return view.rec.columns({ ...v, shape: [rows, n] }, name, near.base, mask, ids);
}

/**
 * The text of one position: the token's own where it is known, else the glyph of its mark. A token
 * that is not known stays blank: a letter in its place would be read as the token.
 * @param {View} view
 * @param {string} letter
 * @param {number | null | undefined} id
 */
export function tokenText(view, letter, id) {
  const role = view.roleOf(letter);
  if (id == null) return role === "token" ? "" : view.mark(role).glyph;
  const text = view.rec.text(id);
  if (text == null) return String(id);
  return role === "padding" && hollow(text) ? view.mark(role).glyph : seen(text, view.fits);
}

/** @param {View} view */
function cellText(view, role, x, at) {
  if (role === "ids") return tokenText(view, at || "t", x);
  const text = role === "labels" && x >= 0 ? view.rec.text(x) : null;
  return text == null ? String(x).replace("-", "−") : seen(text, view.fits);
}

function cellClass(view, role, x, at) {
  if (role === "attention_mask") return x ? "m-attended" : "m-masked";
  if (role === "labels") return x === -100 ? "m-ignored" : "m-label";
  return role === "ids" ? `m-${view.roleOf(at || "t")}` : "m-plain";
}

/** What a cell says when one points at it. @param {View} view */
function cellTitle(view, role, x, at, c) {
  const text = role === "ids" || role === "labels" ? view.rec.text(x) : null;
  const told = [`[${c}] ${x}`, text != null ? `'${text}'` : null];
  if (role === "labels" && x === -100) told.push(view.name("ignored"));
  if (role === "attention_mask") told.push(view.name(x ? "attended" : "masked"));
  if (at) told.push(view.name(view.roleOf(at)));
  return told.filter(Boolean).join(" · ");
}

/**
 * Numbers as small cells, a line each row. `offset`: columns left free before the first;
 * `begin`: the column to begin with; `fresh(row, column)`: is it new or changed?
 * @param {View} view
 * @param {Value} v
 * @param {any[]} data
 * @param {string} name
 * @param {Beside} near
 */
function cells(view, v, data, name, near, { fresh = null, offset = 0, begin = 0 } = {}) {
  const [rows, n] = extent(v);
  const end = Math.min(n, begin + drawnOf(n));
  const at = columnsOf(view, v, name, near);
  const out = [];
  for (let r = 0; r < Math.min(rows, ROWS); r++) {
    const line = h("div", { class: "cells", css: { "--offset": offset } });
    for (let c = begin; c < end && r * n + c < data.length; c++) {
      const x = data[r * n + c];
      const role = at?.[r]?.roles[c];
      const more = `${role === "v" ? " of-virtual" : ""}${fresh?.(r, c) ? " fresh" : ""}`;
      line.append(
        h(
          "i",
          {
            class: `cell ${cellClass(view, v.role, x, role)}${more}`,
            title: cellTitle(view, v.role, x, role, c),
          },
          cellText(view, v.role, x, role),
        ),
      );
    }
    out.push(line);
  }
  const words = range(Math.min(rows, ROWS)).map((r) => {
    return data.slice(r * n + begin, r * n + Math.min(end, begin + LONG)).join(" ");
  });
  const label = `${name || view.say(v.role)}: ${words.join("; ")}`;
  return [
    h("div", { class: "figure", role: "img", "aria-label": label }, out),
    notes(view, v, rows, n, begin),
  ];
}

/** What of a value is not drawn, and why. @param {View} view @param {Value} v */
function notes(view, v, rows, n, begin = 0) {
  const told = [];
  if (rows > ROWS) told.push(view.say("more_rows", rows - ROWS));
  if (n > COLUMNS) {
    const last = begin + LONG - 1;
    told.push(begin ? view.say("drawn_from", begin, last, n) : view.say("drawn", LONG, n));
  }
  if (v.truncated) told.push(view.say("cut", count(v.data), size(v.shape)));
  return told.map((t) => h("p", { class: "note" }, t));
}

/** Embeddings: one cell per position, with the token it stands for. @param {View} view */
function blocks(view, v, name, near) {
  const [rows, n, width] = v.shape;
  const at = columnsOf(view, v, name, near);
  if (!at) return null;
  const lines = at.slice(0, ROWS).map((row) => {
    const made = [...row.roles].slice(0, drawnOf(n)).map((letter, c) => {
      const role = view.roleOf(letter);
      const title = [`[${c}] ${view.name(role)}`, view.textOf(row.ids?.[c]), width];
      const text = tokenText(view, letter, row.ids?.[c]);
      return h("i", { class: `cell m-${role}`, title: title.filter(Boolean).join(" · ") }, text);
    });
    return h("div", { class: "cells" }, made);
  });
  const label = `${name}: ${v.shape.join(" × ")}`;
  return [
    h("div", { class: "figure", role: "img", "aria-label": label }, lines),
    notes(view, v, rows, n),
  ];
}

/**
 * The figure of a value, or null where its type says it all.
 * @param {View} view
 * @param {number} index
 */
export function figure(view, index, name, near) {
  const v = view.rec.value(index);
  if (v.kind === "cache") return v.length ? cacheBar(view, v.length, near.base) : null;
  if (v.kind !== "tensor") return null;
  if (v.role === "embeddings" && v.shape.length === 3) return blocks(view, v, name, near);
  if (v.attended && v.shape.length === 4) {
    const mask = view.rec.whole(index) && view.rec.mask({ value: index }, 0);
    if (!mask) {
      return h("p", { class: "note" }, view.say(tooLarge(v), `[${v.shape.join(", ")}]`));
    }
    return drawGrid(view, mask, { label: view.say("attention_mask"), most: [150, 150] });
  }
  const data = view.rec.numbers(index);
  if (!data || v.shape.length > 2) return null;
  if (v.shape.length) return cells(view, v, data, name, near);
  return h("div", { class: "number mono" }, numberText(data[0]));
}

/**
 * A value before and after a line, one above the other on one grid of columns.
 * @param {View} view
 */
export function beforeAfter(view, before, after, name, near) {
  const v = view.rec.value(after);
  const was = before == null || before === after ? null : view.rec.value(before);
  const same =
    was?.kind === "tensor" && v.kind === "tensor" && was.shape.length === v.shape.length;
  const flat =
    same && (v.shape.length === 1 || (v.shape.length === 2 && v.shape[0] === was.shape[0]));
  const [now, old] = flat ? [view.rec.numbers(after), view.rec.numbers(before)] : [null, null];
  if (!now || !old || v.truncated || was.truncated) return figure(view, after, name, near);
  const fit = align(v, now, was, old);
  const [rows, n] = extent(v);
  const begin = beginOf(rows, n, fit.fresh) + fit.padAfter; // on the columns of both
  const row = (word, index, data, pad, fresh) => {
    const at = { offset: Math.max(0, pad - begin), begin: Math.max(0, begin - pad), fresh };
    return h(
      "div",
      { class: "pair" },
      h("span", { class: "soft" }, view.say(word)),
      h("div", {}, cells(view, index, data, name, near, at)),
    );
  };
  return h(
    "div",
    { class: "compare" },
    row("before", was, old, fit.padBefore, null),
    row("after", v, now, fit.padAfter, fit.fresh),
  );
}

/**
 * Keys held by a cache, as a bar: the virtual ones, the rest, those added by the call.
 * @param {View} view
 * @param {number} held
 * @param {import("./steps.js").Call | null} base
 * @param {number | null} before  keys before the call, to mark what it added
 */
export function cacheBar(view, held, base, before = null) {
  const layout = base && view.rec.caches.get(base.id);
  const all = [...view.rec.caches.values()].map((c) => c.max_length || c.after || c.before);
  const most = all.reduce((a, b) => Math.max(a, b), Math.max(1, held));
  const virtual = Math.min(layout ? layout.virtual : 0, held);
  // what each key is, where the sequence of the call says it
  const seq = base && view.rec.sequence(base.id);
  const roles = (seq?.rows[view.row] || seq?.rows[0])?.roles || "";
  const known = roles.length === held || (before === null && roles.length > held);
  const letters = known ? roles.slice(0, held) : "v".repeat(virtual) + "t".repeat(held - virtual);
  const part = (from, to, cls, title) => {
    const css = { left: `${(100 * from) / most}%`, width: `${(100 * (to - from)) / most}%` };
    return to > from ? h("i", { class: cls, css, title }) : null;
  };
  return h(
    "div",
    { class: "cachebar", role: "img", "aria-label": view.say("tokens_n", held) },
    stretches([...letters]).map(([from, to, letter]) => {
      const role = view.roleOf(letter);
      return part(from, to, `m-${role}`, `${to - from} × ${view.name(role)}`);
    }),
    before == null ? null : part(before, held, "grown", view.say("added", held - before)),
  );
}
