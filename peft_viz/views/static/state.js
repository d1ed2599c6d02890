// The pane with the variables: what the line changed first, then the rest.
import { h, put } from "./dom.js";
import { beforeAfter, beside, figure } from "./cells.js";
import { enlarge } from "./panes.js";
import { pythonText, short } from "./text.js";
import { wayBox } from "./ways.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Value} Value
 * @typedef {import("./steps.js").Moment} Moment
 * @typedef {import("./steps.js").Call} Call
 * @typedef {import("./steps.js").Change} Change
 * @typedef {import("./cells.js").Beside} Beside
 * @typedef {{index: number, change?: Change | null}} Entry
 */

/** @param {View} view */
export function statePane(view) {
  const { $ } = view;
  const region = { tabindex: "0", role: "region", "aria-label": view.say("variables") };
  $.state = h("div", { class: "body state", ...region });
  $.stateTitle = view.h(3);
  // figures scroll sideways together, so that columns stay above one another
  const follow = (e) => {
    if (!e.target.matches?.(".figure")) return;
    for (const other of $.state.querySelectorAll(".figure")) {
      if (other.scrollLeft !== e.target.scrollLeft) other.scrollLeft = e.target.scrollLeft;
    }
  };
  $.state.addEventListener("scroll", follow, true);
  const title = h("div", { class: "title" }, $.stateTitle, enlarge(view, "variables"));
  return h("div", { class: "pane variables" }, title, $.state);
}

/** @param {View} view @param {Moment} m @param {number} k */
export function showState(view, m, k) {
  const { $ } = view;
  if (m.call.source == null) {
    $.stateTitle.textContent = view.say("came_back");
    $.state.replaceChildren(cameBack(view, m.call, k));
    return;
  }
  $.stateTitle.textContent = view.say("variables");
  const vars = view.rec.variables(m);
  // what the callers passed comes first: it says where the padding stands, whatever grew since
  const passed = [m.call, view.rec.root(m.call)].flatMap((c) => Object.entries(c.args));
  const now = [...vars].map(([name, v]) => /** @type {[string, number]} */ ([name, v.index]));
  const near = beside(view, view.rec.nextBase(k), [...passed, ...now]);
  const rest = [...vars].filter(([, v]) => !v.change);
  const kids = [...happened(view, m, vars, near)];
  if (rest.length && m.phase !== "enter") kids.push(view.h(4, view.say("others")));
  put($.state, kids, variableRows(view, rest, near, true));
}

const truth = (yes) =>
  h("span", { class: `badge ${yes ? "yes" : "no"}` }, yes ? "✓ True" : "✗ False");

/** What this moment is about. @param {View} view @param {Moment} m @param {Beside} near */
function happened(view, m, vars, near) {
  const step = m.call.steps[m.step];
  const notice = (word, ...kids) =>
    h("div", { class: "notice" }, h("span", { class: "soft" }, view.say(word)), kids);
  if (m.phase === "into") {
    const names = new Set(step.calls.map((i) => view.rec.calls[i].function));
    return [notice("calling", h("span", { class: "mono" }, [...names].join(", ")))];
  }
  if (m.phase === "enter") return [view.h(4, view.say("called_with"))];
  const kids = [];
  const changed = [...vars].filter(([, v]) => v.change && !v.change.part);
  if (changed.length) {
    const rows = changed.flatMap(([name, v]) => changedRows(view, name, v, vars, near));
    kids.push(view.h(4, view.say("after_line")), h("div", { class: "changed" }, rows));
  }
  if (step?.branch != null) {
    kids.push(notice("condition", truth(step.branch)));
    kids.push(wayBox(view, m.call, step.line, step.branch));
  } else if (!changed.length && m.phase === "line") kids.push(notice("nothing"));
  if (m.phase === "leave") kids.push(ending(view, m.call, near));
  return kids.filter(Boolean);
}

/** @param {View} view @param {Call} call @param {Beside} near */
function ending(view, call, near) {
  if (call.raised) return raised(view, call.raised);
  if (call.returned == null) return null;
  const how = { tag: view.say("returns"), known: short(call.function) };
  return h("div", { class: "changed" }, variable(view, "", call.returned, near, how));
}

/** @param {View} view */
function raised(view, error) {
  const tag = h("span", { class: "tag" }, view.say("raises"));
  const names = h("div", { class: "names" }, tag, h("span", { class: "mono" }, error.type));
  const body = h("div", { class: "var" }, names, h("div", { class: "note" }, error.message));
  return h("div", { class: "changed error" }, body);
}

/**
 * Names that hold nothing go on one line, the others get a row each.
 * @param {View} view
 * @param {[string, Entry][]} entries
 * @param {Beside} near
 */
export function table(view, entries, near) {
  return h("div", { class: "vars" }, variableRows(view, entries, near));
}

/** `kept`: a row that is as it was at the step before is the same element. */
function variableRows(view, entries, near, kept = false) {
  const made = kept ? (view.$.stateRows ||= new Map()) : new Map();
  const next = new Map();
  const row = (name, index) => {
    const key = `${near.key} ${name} ${index}`;
    next.set(key, made.get(key) || variable(view, name, index, near));
    return next.get(key);
  };
  const [none, empty, rows] = [[], [], []];
  const inside = (name) => entries.filter(([n]) => n.startsWith(name + "[")).length;
  for (const [name, { index }] of entries) {
    const v = view.rec.value(index);
    const group = v.kind === "mapping" && !name.includes("[") ? inside(name) : 0;
    if (v.kind === "scalar" && v.value === null) none.push(name);
    else if (group) {
      const type = h("span", { class: "type mono" }, `${v.type} · ${group}`);
      const names = h("div", { class: "names" }, h("span", { class: "mono name" }, name), type);
      rows.push(h("div", { class: "var" }, names));
    } else if ((v.kind === "mapping" || v.kind === "sequence") && !v.length) empty.push(name);
    else rows.push(row(name, index));
  }
  if (kept) view.$.stateRows = next;
  const quiet = (label, names) => {
    if (!names.length) return null;
    const told = names.map((n) => h("span", { class: "mono" }, n));
    return h("div", { class: "var quiet" }, h("span", { class: "type" }, label), told);
  };
  return [rows, quiet("None", none), quiet(view.say("empty"), empty)];
}

function nameOf(name) {
  const at = name.indexOf("[");
  if (at < 0) return h("span", { class: "mono name" }, name);
  const owner = h("span", { class: "owner" }, name.slice(0, at));
  return h("span", { class: "mono name" }, owner, name.slice(at));
}

/** @param {View} view @param {Beside} near */
function variable(view, name, index, near, { tag = null, known = name } = {}) {
  const v = view.rec.value(index);
  const head = [tag && h("span", { class: "tag" }, tag), name && nameOf(name)];
  const names = h("div", { class: "names" }, head, typeOf(view, v), chip(view, v));
  const cls = `var${name.includes("[") ? " entry" : ""}`;
  return h("div", { class: cls }, names, figure(view, index, known, near));
}

/**
 * A variable that has just changed: the type before and after, the figures one above the other.
 */
function changedRows(view, name, { index, change }, vars, near) {
  const gone = change.how === "deleted";
  const v = view.rec.value(index);
  const before = gone ? null : change.before;
  const was = before == null ? null : view.rec.value(before);
  const cls = { rebound: "", new: "", "in-place": " inplace", deleted: " deleted" }[change.how];
  const tags = [h("span", { class: `tag${cls || ""}` }, view.say(change.how))];
  for (const a of change.aliases || []) {
    const title = view.say("alias", a);
    tags.push(h("span", { class: "tag alias", title }, "= ", h("span", { class: "mono" }, a)));
  }
  const past = was && typeOf(view, was, null, true);
  const differs = past && past.textContent !== brief(view, index);
  const arrow = differs ? [past, h("span", { class: "arrow" }, "→")] : null;
  const names = [nameOf(name), arrow, typeOf(view, v, was), chip(view, v), tags];
  const head = h("div", { class: "names" }, names);
  const drawn = beforeAfter(view, before, index, name, near);
  const rows = [h("div", { class: `var${gone ? " gone" : ""}` }, head, drawn)];
  if (v.kind === "mapping" && !name.includes("[")) {
    const parts = [...vars].filter(([n, x]) => n.startsWith(name + "[") && x.change?.part);
    if (parts.length) rows.push(table(view, parts, near));
  }
  return rows;
}

/** [2, 7]; a size that is not what it was stands out. */
function dims(shape, old = null) {
  const same = old && old.length === shape.length;
  const one = (n, i) => (same && old[i] !== n ? h("b", {}, String(n)) : String(n));
  return ["[", shape.flatMap((n, i) => [i ? ", " : "", one(n, i)]), "]"];
}

/** What kind of value it is, in a few words. @param {View} view @param {Value} v */
export function typeOf(view, v, old = null, past = false) {
  const cls = `type mono${past ? " old" : ""}`;
  const tensor = old?.kind === "tensor" ? old : null;
  const write = {
    tensor: () => [
      tensor && tensor.dtype !== v.dtype ? h("b", {}, v.dtype) : v.dtype,
      dims(v.shape, tensor?.shape),
    ],
    scalar: () => pythonText(v.value),
    cache: () => [
      v.type,
      " · ",
      view.say("tokens_n", v.length),
      v.shape ? [" ", dims(v.shape)] : "",
    ],
    sequence: () => sequenceText(view, v),
    mapping: () => `${v.type} · ${v.length}`,
  };
  const text = write[v.kind] ? write[v.kind]() : v.type;
  return h("span", { class: v.kind === "scalar" ? `${cls} scalar` : cls }, text);
}

/** @param {View} view @param {Value} v */
function sequenceText(view, v) {
  const [open, close] = v.type === "list" ? "[]" : "()";
  const one = (i) => {
    const x = view.rec.value(i);
    if (x.kind === "scalar") return pythonText(x.value);
    return x.kind === "tensor" ? `${x.dtype}[${x.shape.join(", ")}]` : x.type;
  };
  const more = v.length > 8 ? ", …" : "";
  return `${open}${v.items.slice(0, 8).map(one).join(", ")}${more}${close}`;
}

/** @param {View} view @param {number} i */
export const brief = (view, i) => typeOf(view, view.rec.value(i)).textContent;

/** @param {View} view @param {Value} v */
function chip(view, v) {
  const role = v.kind === "cache" ? "cache" : v.kind === "tensor" && v.role !== "other" && v.role;
  return role ? h("span", { class: `chip ${role}` }, view.say(role)) : null;
}

// ------------------------------------------------------------ a call that was not stepped into
/** What it got. @param {View} view @param {Call} call */
export function reached(view, call) {
  const base = call.kind === "base";
  const entries = Object.entries(call.args).map(([n, index]) => [n, { index }]);
  const near = beside(view, base ? call : null, Object.entries(call.args));
  return h(
    "div",
    {},
    base ? h("p", { class: "note" }, view.say("paused")) : null,
    view.h(3, view.say(base ? "reached" : "called_with")),
    table(view, /** @type {any} */ (entries), near),
  );
}

/** What it gave back, once it has. @param {View} view @param {Call} call @param {number} k */
function cameBack(view, call, k) {
  if (k < call.last) return h("p", { class: "note" }, view.say("not_yet", call.last + 1));
  if (call.raised) return raised(view, call.raised);
  const outs = Object.entries(call.outputs);
  if (!outs.length && call.returned != null) outs.push(["", call.returned]);
  const entries = outs.map(([n, index]) => [n, { index }]);
  const near = beside(view, call.kind === "base" ? call : null, []);
  return table(view, /** @type {any} */ (entries), near);
}
