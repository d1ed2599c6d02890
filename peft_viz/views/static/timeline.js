// Where one is, and ways to go elsewhere: buttons, the calls as bars over the axis of steps.
import { h, icon, s } from "./dom.js";
import { stageOf } from "./model.js";
import { playButton, speedPicker } from "./playback.js";
import { clamp, short } from "./text.js";

/** @typedef {import("./element.js").PeftVizTrace} View */
/** @typedef {import("./steps.js").Moment} Moment */

/** @param {View} view */
export function controls(view) {
  const { $, rec } = view;
  const last = rec.moments.length - 1;
  const tool = (name, act, key) => {
    const title = `${view.say(name)} (${key})`;
    const more = { "aria-label": view.say(name), title, onclick: act };
    return h("button", { type: "button", class: "tool", ...more }, icon(name));
  };
  const jump = (name, word, act, key) => {
    const more = {
      "aria-label": view.say(name),
      title: `${view.say(name)} (${key})`,
      onclick: act,
    };
    const text = [view.say(word), " ", h("kbd", {}, key)];
    return h("button", { type: "button", class: "jump", ...more }, text);
  };
  $.first = tool("first", () => view.go(0), "Home");
  $.prev = tool("prev", () => view.move(-1), "←");
  $.next = tool("next", () => view.move(1), "→");
  $.last = tool("last", () => view.go(last), "End");
  $.count = h("output", { class: "count" });
  const tools = [$.first, $.prev, playButton(view), $.next, $.last];
  const fold = h("button", {
    type: "button",
    class: "jump",
    "aria-pressed": String(view.folded),
    title: `${view.say("key_helpers")} (h)`,
    onclick: () => view.foldHelpers(),
  });
  fold.append(view.say("jump_helpers"), " ", h("kbd", {}, "h"));
  const bar = h(
    "div",
    { class: "bar" },
    h("div", { class: "tools", role: "group", "aria-label": view.say("moving") }, tools),
    $.count,
    speedPicker(view),
    jump("next_change", "jump_change", () => view.jumpChange(1), "n"),
    jump("next_decision", "jump_decision", () => view.jumpDecision(1), "d"),
    jump("step_over", "jump_over", () => view.stepOver(1), "o"),
    jump("step_out", "jump_out", () => view.stepOut(), "u"),
    fold,
    alarm(view),
    rec.bases.length > 1 ? baseControl(view) : null,
  );
  return h("div", { class: "controls" }, bar, timeline(view));
}

/** The way to the exception, where there was one. @param {View} view */
function alarm(view) {
  const raised = view.rec.calls.filter((c) => c.raised && c.last != null);
  const first = raised.sort((a, b) => a.last - b.last)[0];
  if (!first) return null;
  const act = { class: "alarm", title: view.say("go_error"), onclick: () => view.go(first.last) };
  return h("button", { type: "button", ...act }, `✗ ${first.raised.type}`);
}

/** @param {View} view */
function baseControl(view) {
  const { $, rec } = view;
  $.base = h("input", {
    type: "range",
    min: 0,
    max: rec.bases.length - 1,
    "aria-label": view.say("base_slider"),
    oninput: () => view.go(rec.bases[+$.base.value].first),
  });
  $.baseText = h("span", { class: "count" });
  const side = (name, by, picture, key) => {
    const title = `${view.say(name)} (${key})`;
    const more = { "aria-label": view.say(name), title, onclick: () => view.jumpBase(by) };
    return h("button", { type: "button", class: "tool", ...more }, icon(picture));
  };
  const back = side("prev_base", -1, "up", "PageUp");
  const on = side("next_base", 1, "down", "PageDown");
  return h("div", { class: "bases" }, back, $.base, on, $.baseText);
}

/**
 * The calls as bars, one inside the other: a scrubber that shows where it goes.
 * @param {View} view
 */
function timeline(view) {
  const { $, rec } = view;
  const x = ($.x = [0]);
  rec.moments.forEach((m, i) => x.push(x[i] + (m.call.kind === "base" ? 4 : 1)));
  const total = x[x.length - 1];
  const shown = rec.calls.filter((c) => c.first != null);
  const deepest = shown.reduce((n, c) => Math.max(n, c.depth), 0);
  const place = (c) => ({
    left: `${(100 * x[c.first]) / total}%`,
    width: `${(100 * (x[c.last + 1] - x[c.first])) / total}%`,
    top: `${Math.min(c.depth, 7) * 18}px`,
  });
  const rows = Math.min(deepest + 1, 8);
  const long = shown.filter((c) => (x[c.last + 1] - x[c.first]) / total > 0.04);
  const name = (c) => {
    const text = c.kind === "base" ? view.say("base_model") : short(c.function);
    return h("b", { css: place(c) }, text);
  };
  $.head = h("i", { class: "head" });
  $.future = h("i", { class: "future" });
  $.line = h(
    "div",
    {
      class: "timeline",
      role: "slider",
      tabindex: "0",
      "aria-label": view.say("timeline"),
      "aria-valuemin": 1,
      "aria-valuemax": rec.moments.length,
      "aria-orientation": "horizontal",
      css: { height: `${rows * 18 + 1}px` },
    },
    callBars(wideEnough(shown, x, total), x, rows * 18 + 1),
    $.future,
    long.map(name), // above what veils the calls to come: a name is always readable
    $.head,
  );
  scrub(view, total);
  return $.line;
}

/**
 * The bars of the calls: one path for each kind of call, however many there are.
 * @param {import("./steps.js").Call[]} calls
 * @param {number[]} x  where each step begins
 * @param {number} height
 */
function callBars(calls, x, height) {
  const total = x[x.length - 1];
  const paths = new Map();
  const add = (kind, c, top, tall) => {
    const wide = Math.max(x[c.last + 1] - x[c.first], total / 1500); // else one would not see it
    const box = `M${x[c.first]} ${Math.min(c.depth, 7) * 18 + top}h${wide}v${tall}h${-wide}z`;
    paths.set(kind, (paths.get(kind) || "") + box);
  };
  for (const c of calls) {
    // an edge only where there is room for one
    const apart = x[c.last + 1] - x[c.first] > total / 200 ? " apart" : "";
    add((c.kind === "base" ? "call base" : "call") + apart, c, 0, 17);
  }
  for (const c of calls) if (c.raised) add("raised", c, 15, 2);
  const view = { viewBox: `0 0 ${total} ${height}`, preserveAspectRatio: "none" };
  const drawn = [...paths].map(([kind, d]) => s("path", { class: kind, d }));
  return s("svg", { class: "bars", "aria-hidden": "true", ...view }, drawn);
}

/**
 * Of the calls of a long recording those that can be seen: one that ends where the one before it
 * at the same depth ends, but for less than a pixel, is left out.
 * @param {import("./steps.js").Call[]} calls  in the order in which they began
 * @param {number[]} x
 * @param {number} total
 */
function wideEnough(calls, x, total) {
  const ends = new Map();
  return calls.filter((c) => {
    const end = x[c.last + 1];
    const seenBefore = end - (ends.get(c.depth) ?? -total) < total / 2000;
    if (!seenBefore) ends.set(c.depth, end);
    return !seenBefore;
  });
}

/** @param {View} view @param {number} total */
function scrub(view, total) {
  const { $, rec } = view;
  const at = (e) => {
    const box = $.line.getBoundingClientRect();
    const x = clamp((e.clientX - box.left) / box.width, 0, 0.99999) * total;
    return [$.x.findIndex((begin) => begin > x) - 1, Math.floor((e.clientY - box.top) / 18)];
  };
  const to = (e) => view.go(at(e)[0]);
  // the function whose bar one points at
  const named = (e) => {
    const [k, depth] = at(e);
    let { call } = rec.moments[k];
    while (call.depth > depth && call.parent != null) call = rec.calls[call.parent];
    $.line.title = call.depth === depth ? call.function : "";
  };
  $.line.addEventListener("pointerdown", (e) => {
    if (e.button) return;
    $.line.setPointerCapture(e.pointerId);
    view.stop();
    to(e);
  });
  $.line.addEventListener("pointermove", (e) => {
    if ($.line.hasPointerCapture(e.pointerId)) to(e);
    else named(e);
  });
}

/**
 * Where the moment stands, in the controls; the same in words.
 * @param {View} view
 * @param {Moment} m
 */
export function showControls(view, m, k) {
  const { $, rec } = view;
  const last = rec.moments.length - 1;
  const total = $.x[last + 1];
  const line = m.call.steps[m.step]?.line;
  $.head.style.left = `${(100 * $.x[k]) / total}%`;
  $.head.style.width = `max(3px, ${(100 * ($.x[k + 1] - $.x[k])) / total}%)`;
  $.future.style.left = `${(100 * $.x[k + 1]) / total}%`;
  $.count.textContent = view.say("step_of", k + 1, last + 1);
  const at = line == null ? "" : ` ${view.say("line", line)}`;
  const where = `${$.count.textContent}: ${short(m.call.function)}${at}`;
  $.line.setAttribute("aria-valuenow", k + 1);
  $.line.setAttribute("aria-valuetext", where);
  for (const b of [$.first, $.prev]) b.setAttribute("aria-disabled", String(k === 0));
  for (const b of [$.next, $.last]) b.setAttribute("aria-disabled", String(k === last));
  if ($.base) {
    const i = Math.max(0, rec.bases.filter((b) => b.first <= k).length - 1);
    const stage = stageOf(view, rec.bases[i]);
    const text = `${view.say("base_n", i + 1, rec.bases.length)} · ${stage}`;
    $.base.value = i;
    $.base.setAttribute("aria-valuetext", text);
    $.baseText.textContent = text;
  }
  return where;
}
