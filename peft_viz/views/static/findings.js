// What looks wrong in the recording, as Python found it: what was seen, what to do, where it was.
import { h } from "./dom.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

const LEVELS = new Set(["note", "warning", "error"]);

/** The step at which a finding was made; null for one about the whole recording. */
function stepOf(rec, finding) {
  const call = finding.call == null ? null : rec.calls[finding.call];
  if (call?.first == null) return null;
  return (finding.step == null ? null : call.at[finding.step]) ?? call.first;
}

/**
 * The findings as a list; null when there are none.
 * @param {View} view
 * @param {boolean} brief  without what to do
 */
export function findingsBox(view, brief = false) {
  const found = view.rec.payload.findings || [];
  const lang = view.language ? "zh" : "en";
  const said = (x) => (typeof x === "string" ? x : x?.[lang] || x?.en || "");
  const one = (finding) => {
    const k = stepOf(view.rec, finding);
    const level = LEVELS.has(finding.level) ? finding.level : "note";
    const act = () => {
      view.go(k);
      view.openTab("lines");
    };
    const go = { type: "button", class: "link", onclick: act };
    return h(
      "li",
      { class: `finding level-${level}` },
      h("b", {}, `${view.say(`level_${level}`)}: `),
      said(finding.text),
      brief ? null : h("p", { class: "advice" }, "→ ", said(finding.advice)),
      " ",
      k == null ? null : h("button", go, view.say("step_n", k + 1)),
    );
  };
  return found.length ? h("ul", { class: "findings" }, found.map(one)) : null;
}
