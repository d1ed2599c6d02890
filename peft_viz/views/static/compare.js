// Two recordings beside each other: the call of the base model of each, what differs marked, and
// the list of first differences that Python found.
import { h, reveal } from "./dom.js";
import { methodName } from "./help.js";
import { moveBar, showMoveBar } from "./playback.js";
import { COLUMNS_SHOWN, sheet } from "./sheet.js";
import { Recording } from "./steps.js";
import { sheetBox, snippet } from "./story.js";
import { clamp, range } from "./text.js";
import { stageOf } from "./model.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Call} Call
 */

/** The second recording, as a view that draws like the first. @param {View} view */
function second(view) {
  if (view.$.second) return view.$.second;
  const rec = new Recording(view.rec.payload.other);
  return (view.$.second = Object.create(view, {
    rec: { value: rec },
    row: { value: 0, writable: true },
    window: { value: new Map() },
  }));
}

/** @param {View} view */
export function comparePanel(view) {
  const { $ } = view;
  const other = second(view);
  const title = (v, sign) => {
    const a = v.rec.about;
    const name = `${a.implementation} ${a.implementation_version} · ${methodName(v)}`;
    return h("div", { class: "h4" }, `${sign}: ${name} · ${a.model_class}`);
  };
  $.sides = [h("div", { class: "side" }), h("div", { class: "side" })];
  const region = { tabindex: "0", role: "region", "aria-label": view.say("tab_compare") };
  return h(
    "div",
    { class: "body compared", ...region },
    moveBar(view, "compare"),
    differences(view, other),
    ($.differs = h("div", { class: "differs" })),
    turns(view),
    ($.both = h(
      "div",
      { class: "sides", css: { "--n": columnsOfAll(view, other) }, "data-shown": "a" },
      h("div", { class: "a" }, title(view, "a"), $.sides[0]),
      h("div", { class: "b" }, title(other, "b"), $.sides[1]),
    )),
  );
}

/** Where there is room for one sheet: which. What differs is seen when one takes turns. */
function turns(view) {
  const { $ } = view;
  const buttons = ["a", "b"].map((side) => {
    const act = () => {
      const [from, to] = boxesOf(side === "b" ? $.sides : [...$.sides].reverse());
      const left = from?.scrollLeft;
      $.both.dataset.shown = side;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === side)));
      if (left && to) to.scrollLeft = left;
    };
    const pressed = { "aria-pressed": String(side === "a") };
    return h("button", { type: "button", ...pressed, onclick: act }, side);
  });
  const group = { class: "group", role: "group", "aria-label": view.say("tab_compare") };
  return h("div", { class: "switch" }, h("div", group, buttons));
}

const boxesOf = (sides) => sides.map((side) => side.querySelector(".sheetbox > .scroll"));

/**
 * Columns of the widest call, as far as they are drawn: sheets that do not fit side by side stand
 * one above the other, column above column.
 */
function columnsOfAll(view, other) {
  const wide = [view, other].flatMap((v) =>
    v.rec.bases.map((b) => v.rec.sequence(b.id)?.rows[0]?.roles.length || 8),
  );
  return Math.min(COLUMNS_SHOWN, Math.max(8, ...wide.slice(0, 400)));
}

/** Two sheets scroll sideways together. @param {Element[]} sides */
function together(sides) {
  const boxes = boxesOf(sides);
  boxes.forEach((box, i) =>
    box?.addEventListener("scroll", () => {
      const other = boxes[1 - i];
      if (other && other.scrollLeft !== box.scrollLeft) other.scrollLeft = box.scrollLeft;
    }),
  );
}

/** What Python found: each difference where it comes first. @param {View} view */
function differences(view, other) {
  const found = view.rec.payload.differences || [];
  if (!found.length) return h("p", { class: "say" }, view.say("no_difference"));
  const lang = view.language ? "zh" : "en";
  const head = ["col_what", "col_when", "a", "b"].map((word) => {
    return h("th", { scope: "col" }, word.length > 1 ? view.say(word) : word);
  });
  const rows = found.map((d) => {
    const act = () => showDifference(view, other, d);
    const [what, ...rest] = d.cells[lang];
    const button = h("button", { type: "button", class: "link", onclick: act }, what);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, button),
      rest.map((x, i) => h("td", { "data-of": ["", "a", "b"][i] || null }, x)),
    );
  });
  const table = h(
    "table",
    { class: "list" },
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, rows),
  );
  return [
    h("p", { class: "say" }, view.say("n_differences", found.length)),
    h("div", { class: "scroll", role: "region", "aria-label": view.say("col_when") }, table),
  ];
}

/** Go to where a difference comes first; for a decision, its line in both. */
function showDifference(view, other, d) {
  const code = (v, call, step) => {
    const c = call == null ? null : v.rec.calls[call];
    const source = c && v.rec.sources[c.source];
    return h(
      "div",
      { class: "cause" },
      source && step != null ? snippet(v, c, step, null) : null,
    );
  };
  const call = d.call == null ? null : view.rec.calls[d.call];
  const turned = d.row != null && d.row !== view.row;
  if (turned) view.row = d.row;
  if (call?.kind === "base" && call.last !== view.step) view.go(call.last);
  else if (turned) view.redraw();
  const both = d.step != null || d.step_b != null;
  view.$.differs.replaceChildren(
    ...(both ? [code(view, d.call, d.step), code(other, d.call_b, d.step_b)] : []),
  );
  reveal(both ? view.$.differs : view.$.both);
}

/** @param {View} view */
export function showCompare(view) {
  const other = second(view);
  const i = view.baseIndex();
  const n = Math.max(view.rec.bases.length, other.rec.bases.length);
  const base = view.rec.bases[i];
  const text = `${view.say("base_n", i + 1, n)} · ${base ? stageOf(view, base) : ""}`;
  showMoveBar(view, i, view.rec.bases.length, text);
  const calls = [base, other.rec.bases[i]];
  other.row = view.row;
  const sheets = [view, other].map((v, side) => {
    const rows = calls[side] && v.rec.sequence(calls[side].id)?.rows.length;
    if (!rows) return null;
    v.row = clamp(v.row, 0, rows - 1);
    return sheet(v.rec, calls[side], v.row);
  });
  const marks = unequal(sheets[0], sheets[1]);
  [view, other].forEach((v, side) => {
    const box = sheets[side]
      ? sheetBox(v, calls[side], {
          from: calls[side].last,
          now: calls[side].last,
          side: "ab"[side],
          marks: (role, c) => marks[side].has(`${role} ${c}`),
        })
      : h("p", { class: "note" }, view.say("no_such_call"));
    view.$.sides[side].replaceChildren(box);
  });
  together(view.$.sides);
  return text;
}

/** Name of each column: the second virtual token is the second one in both. */
function columnNames(roles) {
  let [v, t] = [0, 0];
  return [...roles].map((role) => (role === "v" ? `v${v++}` : `t${t++}`));
}

/**
 * The cells that are not the same in two sheets, as "role column" of each.
 * @param {import("./sheet.js").Sheet | null} a
 * @param {import("./sheet.js").Sheet | null} b
 * @returns {[Set<string>, Set<string>]}
 */
export function unequal(a, b) {
  /** @type {[Set<string>, Set<string>]} */
  const out = [new Set(), new Set()];
  if (!a || !b) return out;
  const table = (x) => {
    const names = columnNames(x.roles);
    const told = new Map();
    for (const line of x.reached) {
      range(names.length).forEach((c) => {
        const value = line.role === "ids" ? (x.ids?.[c] ?? x.roles[c]) : line.values[c];
        if (value != null) told.set(`${line.role} ${names[c]}`, [value, `${line.role} ${c}`]);
      });
    }
    return told;
  };
  const [ta, tb] = [table(a), table(b)];
  for (const [key, [value, cell]] of ta) if (tb.get(key)?.[0] !== value) out[0].add(cell);
  for (const [key, [value, cell]] of tb) if (ta.get(key)?.[0] !== value) out[1].add(cell);
  return out;
}
