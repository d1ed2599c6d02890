// The lines: every line that ran, the variables, the base model; the calls as bars above.
import { h } from "./dom.js";
import { modelPane, showEnd, showModel } from "./model.js";
import { showPath, showSource, sourcePane } from "./source.js";
import { brief, showState, statePane } from "./state.js";
import { splitter } from "./panes.js";
import { pythonText } from "./text.js";
import { controls, showControls } from "./timeline.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

/** @param {View} view */
export function linesPanel(view) {
  const { $ } = view;
  $.shownCall = $.shownBase = null;
  const between = splitter(view, "split-code", "x", () => panes);
  const panes = h("div", { class: "panes" }, sourcePane(view), between, statePane(view));
  const below = splitter(view, "split-model", "y", () => rest);
  const rest = h("div", { class: "rest" }, panes, below, modelPane(view));
  return h("div", { class: "by-line" }, controls(view), rest);
}

/** @param {View} view */
export function showLines(view) {
  const { $ } = view;
  const k = view.step;
  const m = view.rec.moments[k];
  const where = showControls(view, m, k);
  showPath(view, m);
  const panes = [
    [$.state, () => showState(view, m, k)],
    [$.model, () => showModel(view, k)],
    [$.code, () => showSource(view, m)], // the last: it asks where its lines stand
  ];
  for (const [pane, draw] of panes) {
    try {
      draw();
    } catch (error) {
      $.shownCall = $.shownBase = null; // the other panes still work
      const told = view.say("broken", error.message);
      pane.replaceChildren(h("p", { role: "alert", class: "note" }, told));
    }
  }
  $.state.scrollTop = 0; // here, where all is laid out
  showEnd(view);
  return `${where}. ${inWords(view, m)}`;
}

/** What the step did, to be read aloud. @param {View} view */
function inWords(view, m) {
  const step = view.rec.settled(m);
  if (!step) return "";
  const told = step.changes.slice(0, 6).map((c) => {
    const before = c.before == null ? "" : `${brief(view, c.before)} → `;
    return `${c.name}: ${before}${c.value == null ? view.say("deleted") : brief(view, c.value)}`;
  });
  if (step.branch != null) told.unshift(`${view.say("condition")} ${pythonText(step.branch)}`);
  return told.join("; ");
}
