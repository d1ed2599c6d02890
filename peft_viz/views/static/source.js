// The pane with the code: which line runs, which ran, how the conditions came out.
import { h, keepInView } from "./dom.js";
import { enlarge } from "./panes.js";
import { readSource } from "./python.js";
import { owner, short } from "./text.js";
import { reached } from "./state.js";

/** @typedef {import("./element.js").PeftVizTrace} View */
/** @typedef {import("./steps.js").Moment} Moment */

/** @param {View} view */
export function sourcePane(view) {
  const { $ } = view;
  const region = { tabindex: "0", role: "region", "aria-label": view.say("source") };
  $.code = h("div", { class: "body code", ...region });
  $.path = h("nav", { class: "path", "aria-label": view.say("call_path") });
  $.file = h("span", { class: "file" });
  $.code.addEventListener("click", (e) => {
    const row = e.target.closest?.("[data-line]");
    if (row) view.jumpLine(+row.dataset.line);
  });
  const title = h("div", { class: "title code-title" }, $.path, $.file, enlarge(view, "source"));
  return h("div", { class: "pane source" }, title, $.code);
}

/** The calls around this one, the outermost first. @param {View} view @param {Moment} m */
export function showPath(view, m) {
  const chain = [];
  for (let c = m.call; c; c = c.parent == null ? null : view.rec.calls[c.parent])
    chain.unshift(c);
  const button = (c) => {
    const cls = owner(c) === owner(chain[0]) ? "class shared" : "class";
    const act = { type: "button", title: c.function, onclick: () => view.go(c.first) };
    const mine = c === m.call;
    const name = mine && h("span", { class: cls }, owner(c));
    return h("button", { ...act, "aria-current": mine ? "true" : null }, name, short(c.function));
  };
  const between = () => h("span", { class: "soft", "aria-hidden": "true" }, "›");
  view.$.path.replaceChildren(
    ...chain.flatMap((c, i) => (i ? [between(), button(c)] : [button(c)])),
  );
}

/** The lines of a source; one that was shown before has its elements still. @param {View} view */
function lines(view, source) {
  const { $ } = view;
  const made = ($.sources ||= new Map());
  if (!made.has(source)) made.set(source, makeLines(view, source));
  const [box, rows, def] = made.get(source);
  [$.rows, $.defLine] = [rows, def];
  return box;
}

/** Their box, the lines, the number of the line with the name. @param {View} view */
function makeLines(view, source) {
  if (!source.text) {
    return [h("p", { class: "note" }, view.say("no_source")), [], source.first_line];
  }
  const { lines: all, def } = readSource(source);
  const digits = String(source.first_line + all.length).length;
  const made = all.map((pieces, i) => {
    const line = source.first_line + i;
    const code = pieces.map(([cls, piece]) => (cls ? h("span", { class: cls }, piece) : piece));
    return h(
      "div",
      { role: "listitem", "data-line": line },
      h("span", { class: "ln" }, String(line)),
      h("code", {}, code),
      h("span", { class: "badge" }),
    );
  });
  const css = { "--digits": `${digits}ch` };
  const box = h("div", { class: "lines", role: "list", css }, made);
  return [box, made, source.first_line + def];
}

/**
 * Another function than before: its text. What was shown before stays in the page, out of sight: a
 * browser takes long to lay out some hundred lines.
 * @param {View} view
 * @param {Moment} m
 */
function openSource(view, m, source) {
  const { $ } = view;
  $.file.textContent = $.file.title = source ? source.file : view.say("base_model");
  $.code.className = `body ${source ? "code" : "state"}`;
  $.code.setAttribute("aria-label", view.say(source ? "source" : "reached"));
  for (const row of $.rows || []) if (row.ariaCurrent) look(row, "", false);
  const shown = source ? lines(view, source) : reached(view, m.call);
  for (const el of [...$.code.children]) {
    if (el.classList.contains("lines")) el.classList.toggle("away", el !== shown);
    else if (el !== shown) el.remove();
  }
  if (shown.parentNode !== $.code) $.code.append(shown);
}

/** How a condition came out, or how often a line ran. */
function badge(el, outcome, times) {
  const cls = outcome == null ? "badge" : `badge ${outcome ? "yes" : "no"}`;
  const often = times > 1 ? `× ${times}` : "";
  const text = outcome == null ? often : outcome ? "✓ True" : "✗ False";
  if (el.className !== cls) el.className = cls;
  if (el.textContent !== text) el.textContent = text;
}

/** Only what differs is written: a browser styles and lays out anew whatever is. */
function look(row, cls, here) {
  if (row.className === cls) return;
  row.className = cls;
  if (here) row.setAttribute("aria-current", "step");
  else row.removeAttribute("aria-current");
}

/** @param {View} view @param {Moment} m */
export function showSource(view, m) {
  const { $, rec } = view;
  const source = rec.sources[m.call.source];
  const other = $.shownCall !== m.call;
  if (other) openSource(view, m, source);
  $.shownCall = m.call;
  if (!source) {
    if (other) $.code.scrollTop = 0;
    return;
  }
  const { ran, decided, off } = rec.path(m);
  const error = m.phase === "leave" && m.call.raised;
  const at = m.phase === "enter" ? $.defLine : m.call.steps[m.step]?.line;
  const bad = error ? (error.line ?? at) : null;
  const can = new Set(m.call.steps.map((x) => x.line));
  for (const row of $.rows) {
    const line = +row.dataset.line;
    const is = {
      here: line === at,
      calling: line === at && m.phase === "into",
      ran: ran.has(line),
      off: off.has(line),
      can: can.has(line),
      bad: line === bad,
    };
    const cls = Object.keys(is).filter((name) => is[name]);
    look(row, cls.join(" "), is.here);
    badge(row.lastChild, decided.get(line), ran.get(line));
  }
  $.error?.remove();
  $.error = null;
  if (error) {
    const what = [h("b", {}, error.type), ` ${error.message}`];
    $.error = h("div", { class: "message", role: "listitem" }, what);
    ($.rows.find((r) => +r.dataset.line === bad) || $.code.lastChild).after($.error);
  }
  const current = $.rows.find((r) => r.classList.contains("here"));
  if (other) $.code.scrollTop = 0; // when all is changed: asking for a place lays the page out
  if (current) keepInView($.code, current);
}
