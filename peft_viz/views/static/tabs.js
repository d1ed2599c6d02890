// The views of one recording, and the row of tabs that leads to them.
import { attentionPanel, showAttention } from "./attention.js";
import { comparePanel, showCompare } from "./compare.js";
import { decodingPanel, showDecoding } from "./decoding.js";
import { h } from "./dom.js";
import { linesPanel, showLines } from "./lines.js";
import { overviewPanel, showOverview } from "./overview.js";
import { showStory, storyPanel } from "./story.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 *
 * @typedef {object} Tab
 * @property {(view: View) => any} build  its elements
 * @property {(view: View) => void} show  the moment one is at
 * @property {(rec: import("./steps.js").Recording) => boolean} there  has the recording any of it?
 */

/** @type {Record<string, Tab>} */
export const TABS = {
  story: { build: storyPanel, show: showStory, there: (rec) => rec.story.length > 0 },
  lines: { build: linesPanel, show: showLines, there: (rec) => rec.moments.length > 0 },
  overview: { build: overviewPanel, show: showOverview, there: (rec) => rec.moments.length > 0 },
  attention: { build: attentionPanel, show: showAttention, there: (rec) => rec.bases.length > 0 },
  decoding: { build: decodingPanel, show: showDecoding, there: (rec) => rec.decodes },
  compare: { build: comparePanel, show: showCompare, there: (rec) => !!rec.payload.other },
};

/** Names of the tabs that this recording has. @param {View} view */
export const tabsOf = (view) => Object.keys(TABS).filter((name) => TABS[name].there(view.rec));

/** @param {View} view */
export function tabList(view) {
  const names = tabsOf(view);
  view.$.tabs = {};
  const made = names.map((name, i) => {
    const more = {
      role: "tab",
      "data-tab": name,
      title: `${view.say(`tab_${name}`)} (${i + 1})`,
    };
    const act = { type: "button", onclick: () => view.openTab(name) };
    return (view.$.tabs[name] = h("button", { ...act, ...more }, view.say(`tab_${name}`)));
  });
  const turn = (e) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!by) return;
    e.preventDefault();
    e.stopPropagation();
    const to = names[(names.indexOf(view.tab) + by + names.length) % names.length];
    view.openTab(to);
    view.$.tabs[to].focus();
  };
  return h(
    "div",
    { class: "tabs", role: "tablist", "aria-label": view.say("views"), onkeydown: turn },
    made,
  );
}

/** Put another view into the frame. @param {View} view @param {string} name */
export function enterTab(view, name) {
  const { $ } = view;
  for (const [other, tab] of Object.entries($.tabs)) {
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
  }
  $.moveBar = $.play = null;
  $.panel.className = `panel panel-${name}`;
  $.panel.setAttribute("aria-label", view.say(`tab_${name}`));
  $.panel.dataset.largest = view.largest || "";
  view.painters.clear();
  $.panel.replaceChildren(TABS[name].build(view));
}
