// Attention, as large as there is room: who may attend to whom, the weights where they were kept,
// and a map of layers and heads by the share that falls on virtual tokens.
import { h } from "./dom.js";
import { drawGrid } from "./grid.js";
import { onAxis } from "./masks.js";
import { meanShare, weightsOf } from "./measured.js";
import { allLayers, axesOf, pairsText, pairText, pick, stageOf } from "./model.js";
import { tooLarge } from "./numbers.js";
import { clamp, range, spans } from "./text.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Call} Call
 */

/** @param {View} view */
export function attentionPanel(view) {
  const { $ } = view;
  $.attention = h("div", { class: "attention-inner" });
  const region = { tabindex: "0", role: "region", "aria-label": view.say("tab_attention") };
  return h("div", { class: "body attention-view", ...region }, $.attention);
}

/** @param {View} view */
export function showAttention(view) {
  const { $, rec } = view;
  const i = view.baseIndex();
  const base = rec.bases[i];
  const seq = rec.sequence(base.id);
  view.row = clamp(view.row, 0, Math.max(0, (seq?.rows.length || 1) - 1));
  const kept = weightsOf(base);
  view.layer = kept.some((w) => w.layer === view.layer) ? view.layer : (kept[0]?.layer ?? null);
  const measured = base.attention.filter((a) => rec.value(a.value)?.kind === "tensor");
  const groups = measured.filter((a) => rec.whole(a.value));
  const group =
    groups.find((a) => view.layer != null && a.layers.includes(view.layer)) ||
    groups[view.group] ||
    groups[0];
  const mask = group && seq && rec.mask(group, view.row);
  const heads = kept.find((w) => w.layer === view.layer);
  const bar = pickers(view, i, seq, groups, kept, heads);
  const label = view.say(heads?.full ? "weights" : "attention");
  if (!mask) {
    const large = measured[0] && rec.value(measured[0].value);
    const why = large
      ? view.say(tooLarge(large), `[${large.shape.join(", ")}]`)
      : view.say("no_attention");
    $.attention.replaceChildren(bar, h("p", { class: "note" }, why));
    return `${label}. ${why}`;
  }
  const shown = onAxis(mask, seq.rows[view.row].roles.length);
  const weights = heads?.full ? oneHead(view, heads.full, shown) : null;
  const axes = axesOf(view, seq, shown);
  const rest = pairsText(view, shown);
  const hover = h("p", { class: "hover", "aria-live": "off" }, rest);
  const tell = (q, k) => {
    if (q == null) hover.textContent = rest;
    else {
      const w = weights && weights[q * shown.keys + k];
      hover.textContent =
        pairText(view, shown, axes, q, k) + (w == null ? "" : ` · ${w.toFixed(3)}`);
    }
  };
  const wide = $.panel.clientWidth || 900;
  const map = kept.length ? shareMap(view, base, seq, kept) : null;
  const room = /** @type {[number, number]} */ ([
    Math.max(180, Math.min(wide - 200 - (map && wide > 900 ? 330 : 0), 1400)),
    Math.max(180, ($.panel.clientHeight || 600) - 260),
  ]);
  const words = /** @type {[string, string]} */ ([view.say("keys"), view.say("queries")]);
  const how = { label: `${label}: ${rest}`, axes, words, most: room, tell, weights, sums: true };
  const grid = drawGrid(view, shown, { ...how, largest: 44 });
  const why = kept.length && !weights ? heads?.why || view.say("only_share") : null;
  $.attention.replaceChildren(
    bar,
    h(
      "div",
      { class: "attention-two" },
      h(
        "div",
        { class: "attention big scroll" },
        grid,
        hover,
        h("p", { class: "note" }, view.say(weights ? "bars_weights" : "bars_may")),
        kept.length ? null : h("p", { class: "note" }, view.say("no_weights")),
        why ? h("p", { class: "note" }, why) : null,
      ),
      map,
    ),
  );
  return `${label}. ${rest}`;
}

/** What to look at: the call, the row, the layers, the head. @param {View} view */
function pickers(view, i, seq, groups, kept, heads) {
  const { rec } = view;
  const again = (word, change) => (x) => {
    change(x);
    view.redraw();
    view.refocus(`[data-pick="${word}"]`);
  };
  const calls = rec.bases.slice(0, 500).map((b, n) => `${n + 1} · ${stageOf(view, b)}`);
  const rows = (seq?.rows || []).map((_, r) => String(r));
  const layers = kept.length
    ? kept.map((w) => String(w.layer))
    : groups.map((g) => spans(g.layers));
  const layer = kept.length ? kept.findIndex((w) => w.layer === view.layer) : view.group;
  const setLayer = (x) => {
    if (kept.length) view.layer = kept[x].layer;
    else view.group = x;
  };
  const count = heads?.full?.shape[1] || 0;
  const names = count ? [view.say("mean_heads"), ...range(count).map(String)] : [];
  const goCall = (x) => view.go(rec.bases[x].first);
  return h(
    "div",
    { class: "picks" },
    pick(view, "base_word", calls, i, again("base_word", goCall)),
    pick(
      view,
      "batch_row",
      rows,
      view.row,
      again("batch_row", (x) => (view.row = x)),
    ),
    pick(view, "layers", layers, layer, again("layers", setLayer)),
    groups.length === 1 && !kept.length
      ? h("span", { class: "soft" }, allLayers(view, groups[0]))
      : null,
    pick(
      view,
      "head",
      names,
      view.headIndex + 1,
      again("head", (x) => (view.headIndex = x - 1)),
    ),
  );
}

/** Weights of one head, or the mean of all, as [query x key]. */
function oneHead(view, full, shown) {
  const [batch, heads, queries, keys] = full.shape;
  if (queries !== shown.queries) return null;
  const r = batch === 1 ? 0 : view.row;
  const of = view.headIndex >= 0 && view.headIndex < heads ? [view.headIndex] : range(heads);
  const out = new Float32Array(shown.queries * shown.keys);
  const shift = keys - shown.keys; // both end with the last key
  for (let q = 0; q < queries; q++) {
    for (let k = 0; k < shown.keys; k++) {
      let sum = 0;
      if (k + shift >= 0) for (const head of of) sum += full.at(r, head, q, k + shift);
      out[q * shown.keys + k] = sum / of.length;
    }
  }
  return out;
}

/** Layers x heads, by the share of attention on virtual tokens. @param {View} view */
function shareMap(view, base, seq, kept) {
  const layers = kept.filter((w) => w.share);
  if (!layers.length) return null;
  const { roles: all } = seq.rows[view.row];
  const roles = all.slice(seq.query_start);
  const none = !all.includes("v"); // no virtual token: a choice of weights, without numbers
  const means = layers.map((w) => meanShare(w.share, w.share.shape[0] === 1 ? 0 : view.row, roles));
  const rows = layers.map((w, i) => {
    const cells = means[i].map((x, head) => {
      const act = () => {
        view.layer = w.layer;
        view.headIndex = head;
        view.redraw();
        view.refocus(`[data-head="${w.layer}.${head}"]`);
      };
      const on = view.layer === w.layer && view.headIndex === head;
      const percent = Math.round(100 * x);
      const name = view.say(none ? "layer_head_of" : "share_of", w.layer, head, percent);
      const more = {
        "data-head": `${w.layer}.${head}`,
        "aria-pressed": String(on),
        "aria-label": name,
        title: name,
        css: { "--share": `${percent}%` },
      };
      return h(
        "td",
        {},
        h(
          "button",
          { type: "button", class: "share", onclick: act, ...more },
          none ? "·" : String(percent),
        ),
      );
    });
    return h("tr", {}, h("th", { scope: "row" }, String(w.layer)), cells);
  });
  const heads = layers[0].share.shape[1];
  const names = range(heads).map((n) => h("th", { scope: "col" }, String(n)));
  return h(
    "div",
    { class: "sharemap scroll" },
    none ? null : h("p", { class: "lead-share" }, meanText(view, layers, means)),
    h("div", { class: "h4" }, view.say(none ? "no_share_title" : "share_title")),
    h(
      "table",
      { class: "shares" },
      h("thead", {}, h("tr", {}, h("th", {}, view.say("layer_head")), names)),
      h("tbody", {}, rows),
    ),
    h("p", { class: "note" }, view.say(none ? "no_share_note" : "share_note")),
  );
}

/** The mean share on virtual tokens, and the head that has the most. @param {View} view */
function meanText(view, layers, means) {
  const all = means.flatMap((heads, i) => heads.map((x, head) => [x, layers[i].layer, head]));
  const [most, layer, head] = all.reduce((a, b) => (b[0] > a[0] ? b : a));
  const mean = all.reduce((n, [x]) => n + x, 0) / all.length;
  return view.say("share_mean", Math.round(100 * mean), layer, head, Math.round(100 * most));
}
