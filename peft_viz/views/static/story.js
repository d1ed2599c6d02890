// The story: a moment at a time, its sentence, one row of the batch on one grid of columns, and the
// line of code that did it. What has not happened yet is faint.
import { cacheBar, tokenText } from "./cells.js";
import { adaptedBox } from "./adapted.js";
import { likelyBox } from "./decoding.js";
import { described, h, keepInView, plain, put } from "./dom.js";
import { findingsBox } from "./findings.js";
import { methodName } from "./help.js";
import { moveBar, showMoveBar } from "./playback.js";
import { readSource } from "./python.js";
import { legend } from "./sequence.js";
import { stretches } from "./grid.js";
import { numberOf } from "./numbering.js";
import { COLUMNS_SHOWN, passedSheet, sheet } from "./sheet.js";
import { typeOf } from "./state.js";
import { AFTERWARDS } from "./steps.js";
import { clamp, numberText, range, seen, short } from "./text.js";
import { drawAttention, stageOf } from "./model.js";
import { wayBox } from "./ways.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Scene} Scene
 * @typedef {import("./steps.js").Call} Call
 * @typedef {import("./sheet.js").Line} Line
 */

const AROUND = 3; // lines of code before and after the one that did it
const LINE_NAMES = {
  ids: "token",
  attention_mask: "mask",
  labels: "label",
  positions: "position",
  type_mask: "type",
  numbers: "id",
  loss_weights: "loss_weight",
};

/** @param {View} view */
export function storyPanel(view) {
  const { $, rec } = view;
  $.sceneButtons = rec.story.map((scene, i) => sceneButton(view, scene, i));
  const items = [];
  rec.story.forEach((scene, i) => {
    const root = rec.root(scene.at.call);
    if (!i || root !== rec.root(rec.story[i - 1].at.call)) {
      items.push(h("li", { class: "chapter mono" }, `${short(root.function)}()`));
    }
    items.push(h("li", {}, $.sceneButtons[i]));
  });
  const list = h("ol", { class: "scenes" }, items);
  const label = { "aria-label": view.say("moments") };
  $.scenes = h("nav", { class: "body contents", ...label }, list);
  $.scene = h("div", { class: "scene-inner" });
  $.who = null;
  const region = { tabindex: "0", role: "region", "aria-label": view.say("moment") };
  const stage = h("div", { class: "body scene", ...region }, moveBar(view, "story"), $.scene);
  return h("div", { class: "story" }, $.scenes, stage);
}

/** @param {View} view @param {Scene} scene @param {number} i */
function sceneButton(view, scene, i) {
  const cls = `scene-button kind-${/^[\w-]+$/.test(scene.kind) ? scene.kind : "other"}`;
  const sign = { decision: "?", short: "◆" }[scene.kind] || String(numberOf(view, i));
  const spoken = Number.isInteger(+sign) ? null : "true"; // the sentence says what the sign says
  const number = h("span", { class: "no", "aria-hidden": spoken }, sign);
  const text = h("span", { class: "what" }, textOf(view, scene));
  return h(
    "button",
    { type: "button", class: cls, onclick: () => view.goScene(i) },
    number,
    text,
  );
}

/** What the method did to the batch, in one sentence of measured facts. @param {View} view */
function inShort(view) {
  const { rec } = view;
  const named = methodName(view);
  const name = view.language ? named.replace(/\w$/, "$& ") : named; // LoRA 不改变
  const seq = rec.sequence(rec.bases[0].id);
  const row = seq?.rows[Math.min(view.firstRow, seq.rows.length - 1)];
  const count = [...(row?.roles || "")].filter((c) => c === "v").length;
  if (!count) return view.say(rec.about.peft_type ? "short_inside" : "short_alone", name);
  const cached = row.roles.indexOf("v") < seq.query_start;
  if (cached) return view.say("short_cache", name, count, view.say("keeps_length"));
  return view.say(placeOf(row.roles), name, count, growth(view, row, count));
}

/** Where the virtual tokens stand; /t.*v/ would look through a long row again and again. */
function placeOf(roles) {
  const first = roles.indexOf("t");
  if (first >= 0 && first < roles.lastIndexOf("v")) return "short_among";
  return /^p+v/.test(roles) ? "short_behind" : "short_front";
}

/** How mask and labels grew, as measured: CPT gives labels to some of its virtual tokens. */
function growth(view, row, count) {
  if (!row.labels?.some((x) => x != null)) return view.say("grows_mask", count);
  const added = row.labels.filter((x, c) => row.roles[c] === "v" && x != null);
  const told = added.filter((x) => x !== -100).length;
  if (added.length < count) return view.say("grows_mask", count);
  return told ? view.say("grows_some", count, count - told, told) : view.say("grows_both", count);
}

/** The sentence of a moment in the reader's language. @param {View} view @param {Scene} scene */
export function textOf(view, scene) {
  const { text } = scene;
  if (scene.kind === "short") return inShort(view);
  return typeof text === "string" ? text : text[view.language ? "zh" : "en"] || text.en || "";
}

/** @param {View} view */
export function showStory(view) {
  const { $, rec } = view;
  const i = view.sceneIndex;
  const scene = rec.story[i];
  const was = $.scene.at ?? i; // buttons before and behind both are as they were
  for (let j = Math.min(i, was); j <= Math.max(i, was); j++) {
    $.sceneButtons[j].classList.toggle("done", j < i);
    $.sceneButtons[j].removeAttribute("aria-current");
  }
  $.sceneButtons[i].setAttribute("aria-current", "step");
  $.scene.at = i;
  const [n, of] = [numberOf(view, i), numberOf(view, rec.story.length - 1)];
  const count = n ? view.say("moment_of", n, of) : view.say("short_of", of);
  showMoveBar(view, i, rec.story.length, count);
  const base = scene.base || rec.nextBase(scene.k);
  const from = rec.story.filter((other, j) => j < i && other.k < scene.k).pop()?.k ?? -1;
  const short_ = scene.kind === "short";
  // a call that was not stepped into is one step: what came back belongs to the moments behind it
  const when = short_
    ? { from: base.last, now: rec.root(base).last, added: true }
    : { from, now: scene.k, waits: base?.last === scene.k && !AFTERWARDS.has(scene.kind) };
  const names = new Set(namesOf(scene).flatMap((name) => ROLES[name] || name));
  const shown = { ...when, names, old: $.scene };
  const picture = base
    ? sheetBox(view, base, shown)
    : passedBox(view, rec.root(scene.at.call), shown);
  const columns = base && view.rec.sequence(base.id)?.rows[0]?.roles.length;
  const beside = short_ ? [] : (BESIDE[scene.kind] || whoAndCause)(view, scene, base);
  const room = { class: short_ ? "one" : "two", css: { "--n": wideOf(columns) } };
  // a run that ended with an error opens with it
  const failed = i === 0 && (rec.payload.findings || []).some((f) => f.kind === "raised");
  put(
    $.scene,
    failed ? findingsBox(view) : null,
    h("p", { class: short_ ? "say large" : "say" }, textOf(view, scene)),
    short_ ? h("p", { class: "note begin" }, h("kbd", {}, "→"), " ", view.say("begin")) : null,
    h("div", { ...room, "data-keep": "room" }, picture, beside),
    (short_ && !failed && findingsBox(view, true)) || null,
  );
  view.paintAll();
  if (short_) seam($.scene.querySelector(".scroll"));
  else bringIn($.scene.querySelector(".scroll"), scene.kind === "given");
  keepInView($.scenes, $.sceneButtons[i]);
}

/** Scroll a wide grid to what is new. @param {any} box @param {boolean} given */
export function bringIn(box, given) {
  if (!box || box.scrollWidth <= box.clientWidth) return;
  const cell = box.querySelector(given ? ".passed td:not(.gap)" : ".reached .fresh");
  if (cell) box.scrollLeft = Math.max(0, cell.offsetLeft - 100);
  else seam(box);
}

/** Scroll, if need be, to where what was added meets what was passed. @param {any} box */
function seam(box) {
  const cell =
    box && box.scrollWidth > box.clientWidth && box.querySelector(".passed td:not(.gap)");
  if (!cell) return;
  const end = cell.offsetLeft + 2 * cell.offsetWidth; // two of those that were passed
  if (end > box.clientWidth) box.scrollLeft = end - box.clientWidth;
}

/** Columns that the grid would like to show. */
const wideOf = (columns) => Math.min(columns || 8, COLUMNS_SHOWN);

const ROLES = {
  input_ids: "ids",
  inputs_embeds: "ids",
  position_ids: "positions",
  token_type_ids: "type_mask",
  input_type_mask: "type_mask",
  past_key_values: "ids", // the tokens in the cache
  prompts: "ids",
  sequences: "ids",
  loss: ["labels", "loss_weights"],
};

/** What a moment is about; layers stand in no line of the grid. @param {Scene} scene */
const namesOf = (scene) => (scene.kind === "inside" ? ["layers"] : scene.names || []);

/** What stands beside the grid: the code, or what this moment is about. */
const BESIDE = {
  attention: (view, scene, base) => who(view, base),
  token: (view, scene, base) => likelyBox(view, base, view.row),
  inside: (view, scene, base) => adaptedBox(view, base || scene.at.call),
};

const SMALL = { most: /** @type {[number, number]} */ ([200, 182]), rows: false, rank: 3 };

/** @param {View} view @param {Scene} scene @param {Call} base */
function whoAndCause(view, scene, base) {
  const later = base && scene.k < base.first;
  return [base && who(view, base, later), cause(view, scene)];
}

/**
 * Who may attend to whom in a call, small; what has not happened yet is faint. Made once, as long
 * as the same is shown.
 * @param {View} view
 * @param {Call} base
 * @param {boolean} [later]
 */
function who(view, base, later = false) {
  const { $ } = view;
  const key = [base.id, view.row, view.group, view.theme, view.presenting].join();
  if ($.who?.key !== key) {
    const box = h("div", { class: "attention" });
    drawAttention(view, base, view.rec.sequence(base.id), box, SMALL);
    const open = () => view.openTab("attention");
    const more = h("button", { type: "button", class: "soft more", onclick: open });
    more.append(view.say("larger"), " ▸");
    const when = h("p", { class: "note when" }, view.say("not_yet_short"));
    $.who = { key, box: h("div", { class: "who" }, box, when, more) };
  }
  $.who.box.classList.toggle("later", later);
  return $.who.box;
}

/** What was passed to a call that ended before it called the base model. @param {View} view */
function passedBox(view, root, when) {
  const data = passedSheet(view.rec, root, view.row);
  const none = h("p", { class: "note" }, view.say("no_base"));
  if (!data?.passed.length) return none;
  const total = data.roles.length;
  const first = clamp(view.window.get(root.id) ?? 0, 0, total);
  const columns = range(Math.min(COLUMNS_SHOWN, total - first)).map((i) => first + i);
  const lines = data.passed.map((line) => lineOf(view, data, line, columns, when, true));
  const word = view.say("you_passed");
  const body = plain("tbody", { class: "passed" }, heading(columns, word), lines);
  return h(
    "div",
    { class: "sheetbox", "data-keep": "sheetbox" },
    rowPicker(view, data.rows, data),
    turner(view, root, first, total),
    tableBox(view, word, when.old, columns, [body])[0],
    none,
    legend(view, rolesOf(view, data)),
  );
}

// ------------------------------------------------------------ the grid
/**
 * @param {View} view
 * @param {Call} base
 * @param {object} when
 * @param {number} when.from  the step behind which a cell is new
 * @param {number} when.now  the step before which a cell has happened
 * @param {boolean} [when.added]  mark what was added, whenever it was
 * @param {boolean} [when.waits]  what came back is not known yet
 * @param {boolean} [when.fed]  mark what is fed to the base model
 * @param {string} [when.side]  of two recordings: "a" or "b"
 * @param {Set<string>} [when.names]  the lines that this is about
 * @param {(role: string, column: number) => boolean} [when.marks]  mark these cells, and no others
 * @param {Element} [when.old]  where the grid stands that this one comes in place of
 */
export function sheetBox(view, base, when) {
  const seq = view.rec.sequence(base.id);
  if (!seq?.rows.length) return h("p", { class: "note" }, view.say("no_inputs"));
  view.row = clamp(view.row, 0, seq.rows.length - 1);
  const data = sheet(view.rec, base, view.row);
  const total = data.roles.length;
  const begin = data.start ? total - COLUMNS_SHOWN : 0; // a decoding step: what it is fed
  const first = clamp(view.window.get(base.id) ?? begin, 0, total);
  const columns = range(Math.min(COLUMNS_SHOWN, total - first)).map((i) => first + i);
  const known = data.reached.map((line) => line.role);
  // what this is about; a moment that is about no line of the grid made none of them
  const marked = new Set(known.filter((role) => !when.names?.size || when.names.has(role)));
  const above = data.passed.map((line) => lineOf(view, data, line, columns, when, true));
  const drawn = (lines) =>
    lines.map((line) => lineOf(view, data, line, columns, { ...when, marked }, false));
  const below = drawn(data.reached.filter((line) => !line.aside));
  const aside = drawn(data.reached.filter((line) => line.aside));
  const reached = when.now >= base.first;
  const stage = stageOf(view, base);
  const bodies = [
    when.fed && data.start
      ? null
      : plain("tbody", { class: "passed" }, heading(columns, view.say("you_passed")), above),
    plain(
      "tbody",
      { class: "reached" },
      heading(columns, `${view.say(reached ? "reached" : "on_its_way")} · ${stage}`),
      parts(view, data, columns),
      below,
      keysLine(view, base, data, columns, when),
    ),
    aside.length
      ? plain("tbody", { class: "reached" }, heading(columns, view.say("for_the_loss")), aside)
      : null,
  ];
  const label = [view.say("sequence"), when.side].filter(Boolean).join(" ");
  const [box, cells] = tableBox(view, label, when.old, columns, bodies);
  return h(
    "div",
    { class: "sheetbox", "data-keep": "sheetbox" },
    when.marks ? null : rowPicker(view, seq.rows.length, data),
    when.marks ? null : turner(view, base, first, total),
    box,
    cameBackLine(view, base, when),
    legend(view, rolesOf(view, data), {
      fresh: cells.querySelector(".fresh") && wordOf(when),
      unborn: cells.querySelector(".unborn") && "faint",
    }),
  );
}

const heading = (columns, word) => {
  const cell = { colspan: columns.length + 1, scope: "rowgroup", class: "part" };
  return plain("tr", {}, plain("th", cell, plain("span", {}, word)));
};

/**
 * The table of a sheet: the box that holds it, and the element that has its cells. `where`: a table
 * that stands in there becomes this one.
 */
function tableBox(view, label, where, columns, bodies) {
  const old = where?.querySelector("[data-keep=sheet]");
  const name = { class: "strip sheet", "aria-label": view.say("sequence") };
  const cols = [{ class: "head-col" }, { span: columns.length }].map((x) => plain("col", x));
  const now = plain(
    "table",
    { ...name, css: { "--n": columns.length }, "data-keep": "sheet" },
    plain("colgroup", {}, cols),
    bodies,
  );
  const table = described(old, now);
  const scroll = { class: "scroll", role: "region", "aria-label": label, "data-keep": "scroll" };
  return [h("div", scroll, table), old || table];
}

/** The marks of a sheet. @param {View} view */
const rolesOf = (view, data) => [...new Set(data.roles)].map((c) => view.roleOf(c));

/** What an outline means. */
function wordOf(when) {
  if (when.marks) return "differs_here";
  return when.added ? "added_here" : when.fed ? "fed_here" : "new_here";
}

/** Has a call given back what it gives? */
const isBack = (base, { now, waits = false }) => now >= base.last && !waits;

/** Does the cache of a call, when it has ended, hold a key for each column of the grid? */
const hasKeysLine = (view, base, total, { fed = false, marks = null }) =>
  !fed && !marks && view.rec.caches.get(base.id)?.after === total;

/** What the cache holds, on the columns of the grid. */
function keysLine(view, base, data, columns, when) {
  const total = data.roles.length;
  if (!hasKeysLine(view, base, total, when)) return null;
  const { before } = view.rec.caches.get(base.id);
  const held = isBack(base, when) ? total : before;
  const from = when.added ? total : before; // there, an outline is what the method added
  const roles = columns.map((c) => {
    if (c >= held) return "";
    return `m-${view.roleOf(data.roles[c])}${c >= from ? " grown" : ""}`;
  });
  const told = `${view.say("cache")}: ${view.say("tokens_n", held)}`;
  const name = { scope: "row", "aria-label": told, title: told };
  return plain(
    "tr",
    { class: "keys" },
    plain("th", name, view.say("cache")),
    stretches(roles).map(([a, b, cls]) => plain("td", { colspan: b - a, class: cls })),
  );
}

/** Which columns lie in the cache already, and which are this call's inputs. */
function parts(view, data, columns) {
  const cached = columns.filter((c) => c < data.start).length;
  if (!cached) return null;
  const span = (n, cls, word) =>
    n ? plain("td", { colspan: n, class: `span ${cls}` }, plain("span", {}, word)) : null;
  const fresh = columns.length - cached;
  return plain(
    "tr",
    { class: "axis" },
    plain("td", { class: "corner" }),
    span(cached, "", `${view.say("in_cache")} · ${data.start}`),
    span(fresh, "now", fresh < 5 ? "▾" : view.say("this_call")),
  );
}

/** @param {View} view @param {Line} line */
function lineOf(view, data, line, columns, when, given) {
  const about = !given && when.names?.has(line.role);
  const cls = about ? "about" : null;
  const name = plain("th", { scope: "row", class: cls }, view.say(LINE_NAMES[line.role]));
  if (line.lost) {
    const cell = { class: "unkept", colspan: columns.length };
    return plain("tr", {}, name, plain("td", cell, view.say("unkept")));
  }
  const looks = looksOf(view, line);
  const cells = columns.map((c) => {
    const x = line.values[c];
    if (x == null) return GAP;
    const look = (looks.cells[c] ||= cellOf(view, data, line.role, x, c, given));
    const later = line.born[c] > when.now;
    const born = when.added
      ? data.roles[c] === "v"
      : line.born[c] > when.from && when.marked?.has(line.role);
    const fed = when.fed && data.start && line.role === "ids" && c >= data.start;
    const fresh = when.marks ? when.marks(line.role, c) : !later && (born || fed);
    const more = `${later ? " unborn" : ""}${fresh && !given ? " fresh" : ""}`;
    const told = later ? `${look.title} · ${view.say("not_yet_short")}` : look.title;
    return (look.made[more] ||= plain("td", { class: look.cls + more, title: told }, look.text));
  });
  // for those who hear the row: "token: 4 × virtual token, f, i, g"
  name.props["aria-label"] = looks.heard[columns[0]] ||= heard(looks, name.kids[0], columns);
  return plain("tr", {}, name, cells);
}

const GAP = plain("td", { class: "gap" });

/**
 * What was found out about the cells of a line, and described, at the moments before.
 * @param {View} view
 * @param {Line} line
 */
function looksOf(view, line) {
  const all = (view.$.looks ||= new WeakMap());
  if (!all.has(line)) all.set(line, { cells: [], heard: {} });
  return all.get(line);
}

function heard(looks, name, columns) {
  const words = columns.flatMap((c) => looks.cells[c]?.spoken ?? []);
  const told = stretches(words).map(([from, to, word]) => {
    return to - from > 1 ? `${to - from} × ${word}` : word;
  });
  return `${name}: ${told.join(", ")}`;
}

/** What a cell is, where its text is a sign. */
function spokenOf(view, data, role, x, c) {
  if (role === "attention_mask") return view.name(x ? "attended" : "masked");
  if (role === "labels") return x === -100 ? view.name("ignored") : null;
  const mark = role === "ids" && view.roleOf(data.roles[c]);
  return mark === "virtual" || mark === "padding" ? view.name(mark) : null;
}

/**
 * Class, text, what a cell says when one points at it and when one hears it; `made`: as it was
 * described, by the class that a moment gives it.
 */
function cellOf(view, data, role, x, c, given) {
  const mark = view.roleOf(data.roles[c]);
  const place = `[${c}] `;
  const look = {
    ids: () => {
      const id = given ? x : data.ids?.[c];
      const kept = !given && c < data.start ? ` · ${view.say("in_cache")}` : "";
      const title = [view.name(mark), view.textOf(id)].filter(Boolean).join(" · ") + kept;
      return [`tok m-${mark}`, tokenText(view, data.roles[c], id), title];
    },
    attention_mask: () => {
      const name = x ? "attended" : "masked";
      return [`m-${name}`, String(x), view.name(name)];
    },
    labels: () => {
      if (x === -100) return ["m-ignored", "−100", view.name("ignored")];
      const text = view.rec.text(x);
      return ["m-label", text == null ? String(x) : seen(text, view.fits), view.textOf(x)];
    },
  };
  const number = () => (Number.isInteger(x) ? String(x) : Number(x).toPrecision(2));
  const made = look[role]
    ? look[role]()
    : ["num", typeof x === "number" ? number() : String(x), view.say(LINE_NAMES[role])];
  const [cls, text, title] = [made[0], made[1], place + made[2]];
  const spoken = spokenOf(view, data, role, x, c) ?? text;
  return { cls, text, title, spoken, made: {} };
}

/** Which row of the batch; none where there is but one. @param {View} view */
function rowPicker(view, rows, data) {
  if (rows < 2) return null;
  const act = (r) => () => {
    view.row = r;
    view.redraw();
    view.refocus(`[data-row="${r}"]`);
  };
  const few = range(Math.min(rows, 12));
  const one = (r) => {
    const more = { "aria-pressed": String(r === view.row), "data-row": r, onclick: act(r) };
    return h("button", { type: "button", ...more }, String(r));
  };
  const all = h("select", {
    "aria-label": view.say("batch_row"),
    onchange: (e) => act(+e.target.value)(),
  });
  range(rows).forEach((r) => {
    all.append(h("option", { value: r, selected: r === view.row }, String(r)));
  });
  const group = { class: "group", role: "group", "aria-label": view.say("batch_row") };
  const told = [["p", "padded_n"], ["0", "masked_n"]].flatMap(([letter, word]) => {
    const n = data.roles.split(letter).length - 1;
    return n ? view.say(word, n) : [];
  });
  return h(
    "div",
    { class: "rowpick" },
    h("span", { class: "soft" }, view.say("row_word")),
    rows > 12 ? all : h("div", group, few.map(one)),
    h("span", { class: "soft" }, told.join(" · ") || view.say("unpadded")),
  );
}

/** @param {View} view @param {Call} base */
function turner(view, base, first, total) {
  const most = total - COLUMNS_SHOWN;
  if (most <= 0) return null;
  const slide = (e) => {
    view.window.set(base.id, clamp(+e.target.value, 0, most));
    view.redraw();
    view.refocus(".turner input");
  };
  const range_ = {
    type: "range",
    min: 0,
    max: most,
    step: 20,
    "aria-label": view.say("columns"),
  };
  const input = h("input", { ...range_, onchange: slide });
  input.value = String(first);
  const last = Math.min(total, first + COLUMNS_SHOWN) - 1;
  const text = h("span", { class: "soft" }, view.say("window", first, last, total));
  return h("label", { class: "turner" }, text, " ", input);
}

/** Loss, logits and cache that came back; until then: not yet. @param {View} view */
function cameBackLine(view, base, when) {
  const known = isBack(base, when);
  const entries = Object.entries(base.outputs).filter(([, i]) => {
    return view.rec.value(i)?.value !== null;
  });
  if (!entries.length && !base.raised) return null;
  const number = (i) => {
    const v = view.rec.value(i);
    const x = v.role === "loss" && !v.shape?.length ? view.rec.numbers(i)?.[0] : null;
    return x == null ? typeOf(view, v) : h("b", { class: "mono" }, numberText(x));
  };
  const one = ([n, i]) => h("div", {}, h("dt", { class: "mono" }, n), h("dd", {}, number(i)));
  const word = !known ? "not_yet_short" : base.raised ? "nothing_back" : null;
  const told = word
    ? h("span", {}, view.say(word))
    : h("dl", { class: "came" }, entries.map(one));
  const total = view.rec.sequence(base.id)?.rows[0].roles.length;
  const above = when.fed || hasKeysLine(view, base, total, when);
  const cache = known && !above && view.rec.caches.get(base.id);
  const before = when.added ? null : cache?.before; // there, an outline is what the method added
  const bar = cache && cache.after ? cacheBar(view, cache.after, base, before) : null;
  return h(
    "div",
    { class: `back${known ? "" : " waits"}` },
    h("div", { class: "h4" }, view.say("came_back")),
    told,
    bar && h("span", { class: "soft" }, view.say("cache")),
    bar,
  );
}

// ------------------------------------------------------------ the line that did it
/** @param {View} view @param {Scene} scene */
function cause(view, scene) {
  const { call, step } = scene.at;
  const open = () => view.openTab("lines");
  const source = view.rec.sources[call.source];
  const more = h("button", { type: "button", class: "soft more", onclick: open });
  more.append(h("kbd", {}, "↓"));
  if (!source?.text) {
    more.append(view.say("its_inputs"));
    return h("div", { class: "cause" }, h("p", { class: "mono soft" }, call.function), more);
  }
  more.append(view.say("all_lines", source.text.replace(/\n$/, "").split("\n").length));
  const act = (line, here) => {
    open();
    if (!here) view.jumpLine(line);
  };
  const at = call.steps[step];
  const way = at?.branch == null ? null : wayBox(view, call, at.line, at.branch, true);
  return h("div", { class: "cause" }, snippet(view, call, step, act), way, more);
}

/**
 * A line of code with those around it.
 * @param {View} view
 * @param {Call} call
 * @param {number} step
 * @param {((line: number, here: boolean) => void) | null} act  when one clicks a line
 */
export function snippet(view, call, step, act) {
  const source = view.rec.sources[call.source];
  const { lines, def } = readSource(source);
  const line = call.steps[step]?.line ?? source.first_line + def;
  const at = clamp(line - source.first_line, 0, lines.length - 1);
  const rows = range(lines.length).slice(Math.max(0, at - AROUND), at + AROUND + 1);
  const made = rows.map((i) => {
    const n = source.first_line + i;
    const here = { class: "here", "aria-current": "step" };
    const code = lines[i].map(([cls, piece]) => {
      return cls ? h("span", { class: cls }, piece) : piece;
    });
    const row = { "data-line": n, role: "listitem", ...(i === at ? here : {}) };
    return h("div", row, h("span", { class: "ln" }, String(n)), h("code", {}, code));
  });
  const file = source.file.split("/").pop();
  const digits = String(source.first_line + lines.length).length;
  const listed = {
    class: "lines snippet scroll",
    role: "list",
    "aria-label": view.say("did_it"),
  };
  const onclick = (e) => {
    const row = e.target.closest("[data-line]");
    if (row && act) act(+row.dataset.line, row.classList.contains("here"));
  };
  return [
    h(
      "div",
      { class: "cause-head" },
      h("span", {}, view.say("did_it")),
      h("span", { class: "mono", title: source.file }, `${file}:${line}`),
    ),
    h("div", { ...listed, css: { "--digits": `${digits}ch` }, onclick }, made),
  ];
}
