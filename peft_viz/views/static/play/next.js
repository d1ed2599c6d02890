// The likeliest next tokens after the chosen column, with the adapter and without it.
import { h } from "../dom.js";
import { nameOf } from "./figure.js";
import { percent } from "./heat.js";
import { likeliest } from "./run.js";

const SHOWN = 5;

/** @typedef {import("./page.js").PeftVizPlayground} View */

/** @param {View} view */
export function nextTokens(view) {
  const { lookedAt, answers } = view;
  const title = h("h2", {}, view.say("next", nameOf(view, lookedAt)));
  const here = answers.shown.columns.indexOf(lookedAt);
  const beside = answers.without.columns.findIndex((c) => c.name === lookedAt.name);
  const same = beside >= 0 && answers.without.columns[beside].text === lookedAt.text;
  return [
    title,
    group(view, view.laneName, answers.shown, here),
    view.state.on ? group(view, view.say("without"), answers.without, same ? beside : -1) : null,
  ];
}

/** @param {View} view @param {import("./run.js").Answered} answered @param {number} column */
function group(view, name, answered, column) {
  const found = column < 0 ? [] : likeliest(answered, column, SHOWN);
  const rows = found.map(({ id, share }) => {
    const text = view.tokens.vocabulary[id];
    const shown = text === "<eos>" ? `■ ${view.say("end")}` : text === " " ? "␣" : text;
    const bar = h("i", { class: "bar", css: { width: `${Math.max(0.5, 100 * share)}%` } });
    return h(
      "li",
      {},
      h("span", { class: "mono" }, shown),
      h("span", { class: "track", "aria-hidden": "true" }, bar),
      h("span", { class: "share" }, `${percent(share)} %`),
    );
  });
  return h(
    "div",
    { class: "likeliest" },
    h("h3", {}, name),
    rows.length ? h("ol", {}, rows) : h("p", { class: "note" }, why(view, answered, column)),
  );
}

/** Why there is nothing to show. */
function why(view, answered, column) {
  const c = view.lookedAt;
  if (column < 0) return view.say("no_such", nameOf(view, c));
  return view.say(column < answered.first ? "not_read" : "last");
}
