// Decoding, a step at a time: the cache filling, what is fed, the likeliest next tokens, and the
// one that was taken.
import { cacheBar, tokenText } from "./cells.js";
import { h, keepInView } from "./dom.js";
import { ended, likelyOf, putAfter, takenAfter } from "./measured.js";
import { stageOf } from "./model.js";
import { moveBar, showMoveBar } from "./playback.js";
import { COLUMNS_SHOWN } from "./sheet.js";
import { bringIn, sheetBox } from "./story.js";
import { clamp, range, seen } from "./text.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Call} Call
 */

/** @param {View} view */
export function decodingPanel(view) {
  const { $, rec } = view;
  $.ticks = rec.bases.map((base, i) => {
    const go = { type: "button", class: "decode-step", onclick: () => view.go(base.last) };
    return h("button", { ...go, "data-base-step": i });
  });
  const label = { "aria-label": view.say("base_calls") };
  $.decodeList = h(
    "nav",
    { class: "body contents steps", ...label },
    h(
      "ol",
      { class: "scenes" },
      $.ticks.map((b) => h("li", {}, b)),
    ),
  );
  $.decoding = h("div", {});
  const region = { tabindex: "0", role: "region", "aria-label": view.say("tab_decoding") };
  const stage = h(
    "div",
    { class: "body scene", ...region },
    moveBar(view, "decoding"),
    $.decoding,
  );
  return h("div", { class: "story" }, $.decodeList, stage);
}

/** @param {View} view */
export function showDecoding(view) {
  const { $, rec } = view;
  const i = view.baseIndex();
  const base = rec.bases[i];
  const seq = rec.sequence(base.id);
  view.row = clamp(view.row, 0, Math.max(0, (seq?.rows.length || 1) - 1));
  rec.bases.forEach((b, j) => tick(view, b, j, i));
  const text = `${view.say("base_n", i + 1, rec.bases.length)} · ${stageOf(view, base)}`;
  showMoveBar(view, i, rec.bases.length, text);
  const sentence = fedText(view, base, seq);
  const cache = rec.caches.get(base.id);
  $.decoding.replaceChildren(
    h("p", { class: "say" }, sentence),
    h(
      "div",
      { class: "two", css: { "--n": Math.min(seq?.rows[0].roles.length || 8, COLUMNS_SHOWN) } },
      h(
        "div",
        { class: "sheetwrap" },
        cache && cache.after ? bigCache(view, base, cache) : null,
        sheetBox(view, base, { from: base.last, now: base.last, fed: true }),
      ),
      likelyBox(view, base, view.row),
    ),
  );
  bringIn($.decoding.querySelector(".scroll"), false);
  keepInView($.decodeList, $.ticks[i]);
  return sentence;
}

/** One call in the list: its stage, the cache as a bar, the token taken. */
function tick(view, base, j, i) {
  const button = view.$.ticks[j];
  const cache = view.rec.caches.get(base.id);
  const taken = j <= i ? takenAfter(view.rec, base, view.row) : null;
  const held = cache ? (cache.after ?? cache.before) : 0;
  const word = taken == null ? "" : seen(view.rec.text(taken) ?? String(taken), 8);
  button.classList.toggle("done", j < i);
  button.classList.toggle("to-come", j > i);
  if (j === i) button.setAttribute("aria-current", "step");
  else button.removeAttribute("aria-current");
  button.replaceChildren(
    h("span", { class: "what" }, stageOf(view, base)),
    held ? h("span", { class: "soft held" }, `${cache.before} → ${held}`) : null,
    h("span", { class: "mono token-out" }, word),
    held ? cacheBar(view, held, base, cache.before) : h("span", { class: "cachebar" }),
  );
}

/** "The base model gets 'x' and a cache of 14." @param {View} view */
function fedText(view, base, seq) {
  const row = seq?.rows[view.row];
  const cache = view.rec.caches.get(base.id);
  if (!row) return stageOf(view, base);
  const fed = range(row.roles.length).slice(seq.query_start);
  const count = fed.length;
  const last = fed[count - 1];
  const word = count === 1 ? `‘${tokenText(view, row.roles[last], row.ids?.[last])}’` : "";
  const before = cache?.before || 0;
  const put = putAfter(view.rec, base, view.row);
  const key = ended(view.rec, base, view.row) ? "then_fills" : "then_takes";
  const out = put == null ? "" : view.say(key, seen(view.rec.text(put) ?? String(put), 12));
  const had = before ? view.say("cache_of", before) : view.say("cache_empty");
  const fedWords = word ? view.say("gets_one", word, had) : view.say("gets_n", count, had);
  return `${fedWords}${out}`;
}

/** @param {View} view */
function bigCache(view, base, cache) {
  const told = [view.say("cache_line", cache.before, cache.after)];
  if (cache.max_length) told.push(view.say("of_max", cache.max_length));
  if (cache.virtual) told.push(view.say("of_them", cache.virtual));
  return h(
    "div",
    { class: "cache-line" },
    h("div", { class: "h4" }, view.say("cache"), h("span", { class: "soft" }, told.join(" · "))),
    cacheBar(view, cache.after, base, cache.before),
  );
}

/**
 * The likeliest next tokens as bars, the one taken marked.
 * @param {View} view
 * @param {Call} base
 * @param {number} r
 */
export function likelyBox(view, base, r) {
  const likely = likelyOf(view.rec, base, r);
  const title = h("div", { class: "h4" }, view.say("likely"));
  if (!likely)
    return h("div", { class: "likely" }, title, h("p", { class: "note" }, view.say("no_likely")));
  const taken = takenAfter(view.rec, base, r);
  const known = likely.some((x) => x.id === taken);
  const one = ({ id, text, chance }) => {
    const on = id === taken;
    const percent = 100 * chance;
    const shown =
      percent >= 99.95 && percent < 100
        ? "> 99.9"
        : percent < 0.05
          ? "< 0.1"
          : percent.toFixed(1);
    return h(
      "li",
      { class: on ? "taken" : null, title: view.textOf(id) },
      h("span", { class: "mono word" }, text == null ? String(id) : seen(text, 12)),
      h("span", { class: "rail" }, h("i", { css: { width: `${Math.max(0.5, percent)}%` } })),
      h("span", { class: "percent" }, `${shown} %`),
      h("span", { class: "soft" }, on ? `← ${view.say("taken")}` : ""),
    );
  };
  const why = ended(view.rec, base, r)
    ? view.say("row_ended")
    : taken != null && !known
      ? view.say("taken_other", view.textOf(taken))
      : null;
  const other = why ? h("p", { class: "note" }, why) : null;
  return h("div", { class: "likely" }, title, h("ol", {}, likely.map(one)), other);
}
