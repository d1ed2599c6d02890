// The sequence of a base call: a table with a group of lines per row of the batch, all on one grid
// of columns, mask under token, label under mask, position under label.
import { described, h, plain } from "./dom.js";
import { tokenText } from "./cells.js";
import { positionsOf } from "./measured.js";
import { clamp, range, seen } from "./text.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Sequence} Sequence
 * @typedef {import("./steps.js").Row} Row
 * @typedef {import("./steps.js").Call} Call
 */

const WINDOW = 40; // columns drawn at a time
const FEW = 3; // rows drawn until one asks for more
const MANY = 64;

const some = (list) => list?.some((x) => x != null);

/** One line of cells: `at(column)` gives [class, text, title]. */
function line(name, columns, at, top = false) {
  const cells = columns.map((i) => {
    const [cls, text, title] = at(i);
    return plain("td", { class: cls, title }, text);
  });
  return plain("tr", { class: top ? "top" : null }, plain("th", { scope: "row" }, name), cells);
}

/**
 * @param {View} view
 * @param {Sequence} seq
 * @param {Row} row
 * @param {number} r
 * @param {number[]} columns
 */
function rowLines(view, seq, row, r, columns) {
  const order = new Map();
  [...row.roles].forEach((letter, i) => letter === "v" && order.set(i, order.size + 1));
  const token = (i) => {
    const [role, id] = [view.roleOf(row.roles[i]), row.ids?.[i]];
    const kept = i < seq.query_start;
    const name = view.name(role) + (order.has(i) ? ` ${order.get(i)}` : "");
    const title = [`[${i}]`, name, view.textOf(id), kept ? view.say("in_cache") : null];
    const text = tokenText(view, row.roles[i], id);
    return [`tok m-${role}${kept ? " kept" : ""}`, text, title.filter(Boolean).join(" · ")];
  };
  const mask = (i) => {
    const bit = row.attended[i];
    if (bit !== "0" && bit !== "1") return ["", ""];
    const role = bit === "1" ? "attended" : "masked";
    return [`m-${role}`, bit, view.name(role)];
  };
  const label = (i) => {
    const x = row.labels[i];
    if (x == null) return ["", ""];
    if (x === -100) return ["m-ignored", "−100", view.name("ignored")];
    const text = view.rec.text(x);
    return ["m-label", text == null ? String(x) : seen(text, view.fits), view.textOf(x)];
  };
  const lines = [line(view.say("row", r), columns, token, true)];
  const gone = (name, word) => {
    if (!row.unkept?.includes(name)) return;
    const cell = plain("td", { class: "unkept", colspan: columns.length }, view.say("unkept"));
    lines.push(plain("tr", {}, plain("th", { scope: "row" }, view.say(word)), cell));
  };
  gone("ids", "ids");
  gone("attended", "mask");
  if (row.attended) lines.push(line(view.say("mask"), columns, mask));
  if (some(row.labels)) lines.push(line(view.say("label"), columns, label));
  gone("labels", "label");
  const used = positionsOf(view.rec, view.rec.calls[seq.call], r);
  const before = row.roles.length - (used?.length || 0);
  const position = (i) => ["num", (used ? used[i - before] : row.positions[i]) ?? ""];
  if (used || some(row.positions)) lines.push(line(view.say("position"), columns, position));
  if (!used) gone("positions", "position");
  return plain("tbody", {}, lines);
}

/**
 * Which columns lie in the cache, which are this call's inputs.
 * @param {View} view
 * @param {Sequence} seq
 */
function head(view, seq, columns) {
  const cached = columns.filter((i) => i < seq.query_start).length;
  const fresh = columns.length - cached;
  const total = seq.rows[0].roles.length;
  const span = (n, cls, text) =>
    n ? plain("td", { colspan: n, class: `span ${cls}` }, plain("span", {}, text)) : null;
  const narrow = fresh < 5 && cached > 8 ? "now short" : "now";
  return plain(
    "tr",
    { class: "axis" },
    plain("td", { class: "corner" }),
    span(cached, "", `${view.say("in_cache")} · ${seq.query_start}`),
    span(fresh, narrow, `${view.say("this_call")} · ${total - seq.query_start}`),
  );
}

/**
 * What was too large to be kept whole.
 * @param {View} view
 * @param {Call} base
 * @param {Sequence | null} seq
 */
export function lost(view, base, seq) {
  const gone = (name) => seq?.rows.some((r) => r.unkept?.includes(name));
  const told = (name) => gone(name) || seq?.rows.some((r) => some(r[name]));
  const shown = {
    ids: told("ids"),
    labels: told("labels"),
    attention_mask: seq?.rows.some((r) => /[01]/.test(r.attended || "")) || gone("attended"),
    positions: told("positions") || !!base.measured?.positions,
  };
  const words = new Set();
  const look = (i, deep) => {
    const v = view.rec.value(i);
    if (deep && v?.items) Object.values(v.items).forEach((j) => look(j, false));
    if (v?.kind !== "tensor" || !(v.role in shown) || shown[v.role]) return;
    if (!view.rec.whole(i)) words.add(v.role);
  };
  for (const call of [base, view.rec.root(base)]) {
    Object.values(call.args).forEach((i) => look(i, true));
  }
  return [...words].map((w) => h("p", { class: "note" }, view.say("lost", view.say(w))));
}

/**
 * @param {View} view
 * @param {Call} base
 * @param {Sequence} seq
 */
export function sequenceBox(view, base, seq) {
  const total = seq.rows[0].roles.length;
  const begin = clamp(view.window.get(base.id) ?? total - WINDOW, 0, Math.max(0, total - WINDOW));
  const from = seq.query_start || view.window.has(base.id) ? begin : 0;
  const columns = range(Math.min(WINDOW, total - from)).map((i) => from + i);
  const rows = seq.rows.slice(0, view.allRows ? MANY : FEW);
  const body = rows.map((row, r) => rowLines(view, seq, row, r, columns));
  const width = `calc(${columns.length} * (var(--cell) + 1px) + 66px)`;
  const kept = { "data-keep": "strip" };
  const named = { class: "strip", "aria-label": view.say("sequence"), css: { width }, ...kept };
  const now = plain("table", named, plain("thead", {}, head(view, seq, columns)), body);
  const table = described(view.$.model?.querySelector("table[data-keep=strip]"), now);
  const region = { class: "scroll", role: "region", "aria-label": view.say("sequence"), ...kept };
  const more = seq.rows.length - rows.length;
  const letters = new Set(rows.flatMap((row) => columns.map((i) => row.roles[i])));
  return h(
    "div",
    { class: "sequence", "data-keep": "sequence" },
    total > WINDOW ? pager(view, base, from, total) : null,
    h("div", region, table),
    more > 0 ? moreRows(view, more) : null,
    legend(
      view,
      [...letters].map((c) => view.roleOf(c)),
    ),
  );
}

/** @param {View} view @param {number} more */
function moreRows(view, more) {
  const act = () => {
    view.allRows = true;
    view.drawModel();
  };
  const text = `${view.say("more_rows", more)} ▾`;
  return h("button", { type: "button", class: "soft more", onclick: act }, text);
}

/** @param {View} view */
function pager(view, base, from, total) {
  const turn = (by, word, sign) => {
    const to = from + by;
    const off = by < 0 ? from <= 0 : from + WINDOW >= total;
    const act = () => {
      if (off) return;
      view.window.set(base.id, clamp(to, 0, Math.max(0, total - WINDOW)));
      view.drawModel();
      view.$.model.querySelector(`[data-turn="${by}"]`)?.focus();
    };
    const more = { "data-turn": by, "aria-label": view.say(word), "aria-disabled": String(off) };
    return h(
      "button",
      { type: "button", class: "turn", title: view.say(word), onclick: act, ...more },
      sign,
    );
  };
  const text = view.say("window", from, Math.min(total, from + WINDOW) - 1, total);
  const middle = h("span", { class: "soft" }, text);
  const by = WINDOW - 8;
  return h(
    "div",
    { class: "pager" },
    turn(-by, "earlier", "◂"),
    middle,
    turn(by, "later_columns", "▸"),
  );
}

/**
 * @param {View} view
 * @param {string[]} names  of marks
 * @param {Record<string, any>} [more]  a class of cells -> the word that says what it means
 */
export function legend(view, names, more = {}) {
  const one = (n) => {
    return h("span", {}, h("i", { class: `key m-${n}` }, view.mark(n).glyph), view.name(n));
  };
  const cell = ([cls, word]) => {
    return word && h("span", {}, h("i", { class: `key m-plain ${cls}` }, "1"), view.say(word));
  };
  return h("p", { class: "legend" }, names.map(one), Object.entries(more).map(cell));
}
