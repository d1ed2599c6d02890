// At a decision: what would have gone the other way. First this recording is asked, then a table of
// settings that were recorded for this (see peft_viz/views/ways.py).
import { h } from "./dom.js";
import { pythonText } from "./text.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Recording} Recording
 * @typedef {import("./steps.js").Call} Call
 * @typedef {{en: string, zh: string, code: string}} Setting
 */

const MAP = 'a[href*="50_specification"]'; // the site's own link to the map of the specification

/**
 * A step of this recording at which the same line came out the other way; null when there is none.
 * @param {Recording} rec
 * @param {Call} call
 * @param {number} line
 * @param {boolean} outcome
 * @returns {number | null}
 */
export function elsewhere(rec, call, line, outcome) {
  for (const c of rec.calls) {
    if (c.source !== call.source || c.first == null) continue;
    const i = c.steps.findIndex((step) => step.line === line && step.branch === !outcome);
    if (i >= 0) return c.at[i];
  }
  return null;
}

/**
 * A setting in which a line comes out as told; null when none is known.
 * @param {Recording} rec
 * @returns {Setting | null}
 */
export function settingOf(rec, source, line, outcome) {
  const ways = rec.payload.ways || {};
  const number = ways.at?.[source]?.[line]?.[String(outcome)];
  return number == null ? null : ways.settings?.[number] || null;
}

/** The row of the map of the specification, where the page stands in the site. */
function mapLink(view, source, line, outcome) {
  const row = view.rec.payload.ways?.rows?.[source]?.[line]?.[String(outcome)];
  /** @type {HTMLAnchorElement | null} */
  const there = row && /^[\w-]+$/.test(row) ? document.querySelector(MAP) : null;
  if (!there) return null;
  const href = `${there.href.replace(/#.*$/, "")}#${row}`;
  return h("a", { href, target: "_top", class: "link" }, view.say("recorded_there"));
}

/**
 * What would have gone the other way; null where nothing is known of it.
 * @param {View} view
 * @param {Call} call
 * @param {number} line
 * @param {boolean} outcome
 * @param {boolean} open  show the code at once
 */
export function wayBox(view, call, line, outcome, open = false) {
  const { rec } = view;
  const k = elsewhere(rec, call, line, outcome);
  const setting = k == null ? settingOf(rec, call.source, line, !outcome) : null;
  if (k == null && !setting) return null;
  const told = [
    h("span", { class: "soft" }, view.say("goes_other")),
    " ",
    h("b", { class: "mono" }, pythonText(!outcome)),
    " ",
  ];
  const link = mapLink(view, call.source, line, !outcome);
  if (!setting) {
    const act = () => {
      view.go(k);
      view.openTab("lines");
    };
    const go = h(
      "button",
      { type: "button", class: "link", onclick: act },
      view.say("step_n", k + 1),
    );
    return h("div", { class: "otherway" }, told, view.say("way_here"), " ", go, " ", link);
  }
  const name = setting[view.language ? "zh" : "en"];
  return h(
    "details",
    { class: "otherway", open },
    h("summary", {}, told, view.say("way_in", name)),
    h("pre", { class: "scroll" }, setting.code),
    link,
  );
}
