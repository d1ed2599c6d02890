// Moving on by itself: play and pause, at a chosen speed; the same buttons in every view.
import { h, icon } from "./dom.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

const SPEEDS = [0.5, 1, 2, 4];
const PACE = { story: 3500, lines: 700, decoding: 1200 }; // milliseconds for a move at speed 1

/**
 * First, previous, play, next, last; how far one is; how fast it plays.
 * @param {View} view
 * @param {string} tab
 */
export function moveBar(view, tab) {
  const { $ } = view;
  const tool = (name, act, key) => {
    const told = view.say(`${name}_${tab}`);
    const more = { "aria-label": told, title: `${told} (${key})`, onclick: act };
    return h("button", { type: "button", class: "tool", ...more }, icon(name));
  };
  $.moveBar = {
    first: tool("first", () => view.move(-Infinity), "Home"),
    prev: tool("prev", () => view.move(-1), "←"),
    next: tool("next", () => view.move(1), "→"),
    last: tool("last", () => view.move(Infinity), "End"),
    count: h("output", { class: "count" }),
  };
  const { first, prev, next, last, count } = $.moveBar;
  const all = [first, prev, playButton(view), next, last];
  const tools = h("div", { class: "tools", role: "group", "aria-label": view.say("moving") }, all);
  return h("div", { class: "bar movebar" }, tools, count, speedPicker(view));
}

/** @param {View} view @param {number} i @param {number} n @param {string} text */
export function showMoveBar(view, i, n, text) {
  const bar = view.$.moveBar;
  if (!bar) return;
  bar.count.textContent = text;
  for (const b of [bar.first, bar.prev]) b.setAttribute("aria-disabled", String(i <= 0));
  for (const b of [bar.next, bar.last]) b.setAttribute("aria-disabled", String(i >= n - 1));
}

/** @param {View} view */
export function playButton(view) {
  const more = { "aria-label": view.say("play"), title: `${view.say("play")} (Space)` };
  view.$.play = h(
    "button",
    { type: "button", class: "tool", ...more, onclick: () => view.play() },
    icon("play"),
  );
  return view.$.play;
}

/** @param {View} view */
export function speedPicker(view) {
  const made = SPEEDS.map((x) => h("option", { value: x, selected: x === view.speed }, `${x}×`));
  const onchange = (e) => {
    view.speed = +e.target.value;
    if (view.playing) {
      view.stop();
      view.play();
    }
  };
  const named = { "aria-label": view.say("speed"), title: view.say("speed") };
  const select = h("select", { ...named, onchange });
  select.append(...made);
  return select;
}

/** Milliseconds between two moves. @param {string} tab @param {number} speed */
export const pace = (tab, speed) => (PACE[tab] || 1500) / speed;
