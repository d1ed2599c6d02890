// The pane of the base model: what reached it, who may attend to whom, the cache, what came back.
// What has not happened at the moment shown is faint and says so.
import { h, put } from "./dom.js";
import { cacheBar } from "./cells.js";
import { drawGrid } from "./grid.js";
import { mayAttend, onAxis, pairs } from "./masks.js";
import { tooLarge } from "./numbers.js";
import { lost, sequenceBox } from "./sequence.js";
import { enlarge } from "./panes.js";
import { typeOf } from "./state.js";
import { clamp, hollow, numberText, range, seen, spans } from "./text.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Call} Call
 * @typedef {import("./steps.js").Sequence} Sequence
 */

/** @param {View} view */
export function modelPane(view) {
  const { $ } = view;
  const region = { tabindex: "0", role: "region", "aria-label": view.say("model") };
  $.modelTitle = h("div", { class: "title" });
  $.model = h("div", { class: "body model", ...region });
  return ($.modelBox = h("div", { class: "pane base-model" }, $.modelTitle, $.model));
}

/** "prefill", "decoding step 3" @param {View} view @param {Call} base */
export function stageOf(view, base) {
  const c = view.rec.caches.get(base.id);
  if (!c) return "";
  return c.stage === "decode" ? view.say("decode", c.step) : view.say(c.stage);
}

/** Has the call begun, and has it ended? @param {Call} base @param {number} k */
function phaseOf(base, k) {
  if (k < base.first) return "upcoming";
  if (k < base.last) return "running";
  return k === base.last ? "now" : "recent";
}

/** @param {View} view @param {number} k */
export function showModel(view, k) {
  const { $, rec } = view;
  const base = rec.base(k);
  $.modelBox.classList.toggle("absent", !base);
  if (!base) {
    $.shownBase = null;
    const none = h("span", { class: "soft" }, view.say("no_base"));
    $.modelTitle.replaceChildren(view.h(3, view.say("model")), none);
    $.model.replaceChildren();
    return;
  }
  const phase = phaseOf(base, k);
  const known = phase === "now" || phase === "recent"; // what came back is known
  const shown = `${base.id} ${phase === "upcoming"} ${known}`;
  if ($.shownBase !== shown) {
    if ($.drawnBase !== base) view.group = 0;
    $.shownBase = shown;
    $.drawnBase = base;
    $.modelBox.classList.toggle("later", phase === "upcoming");
    $.redraw = () => drawModel(view, base, phase === "upcoming", known);
    $.redraw();
  }
  const at = phase === "running" ? base.last : base.first;
  $.when.textContent = view.say(phase, at + 1);
  $.when.className = `when ${phase}`;
  $.when.onclick = () => view.go(base.first);
}

/** @param {View} view @param {Call} base @param {boolean} upcoming @param {boolean} known */
function drawModel(view, base, upcoming, known) {
  const { $ } = view;
  const seq = view.rec.sequence(base.id);
  view.row = clamp(view.row, 0, Math.max(0, (seq?.rows.length || 0) - 1));
  $.when = h("button", { type: "button", title: view.say("go") });
  const name = h("span", { class: "mono soft" }, base.function);
  const stage = h("span", { class: "stage" }, stageOf(view, base));
  const title = view.h(3, h("span", {}, view.say("model")), name, stage);
  $.modelTitle.replaceChildren(title, $.when, enlarge(view, "model"));
  const note = () => h("p", { class: "note" }, view.say("no_inputs"));
  const drawn = seq?.rows.length ? sequenceBox(view, base, seq) : note();
  const left = h(
    "div",
    { class: "left", "data-keep": "left" },
    drawn,
    lost(view, base, seq),
    cacheLine(view, base, known),
  );
  const faint = known ? "attention" : "attention later";
  const attention = h("div", { class: faint });
  put($.model, left, attention, inAndOut(view, base, upcoming, known));
  view.tall ||= view.clientHeight;
  const high = clamp(Math.round(0.49 * view.tall - 250), 90, 178); // as the pane
  drawAttention(view, base, seq, attention, { most: [290, high] });
  view.paintAll();
  $.atEnd = seq && seq.query_start && seq.rows[0].roles.length - seq.query_start < 5;
}

/** Scroll to this call's few inputs, at the right end; when all is drawn. @param {View} view */
export function showEnd(view) {
  const { $ } = view;
  if ($.atEnd) $.model.querySelector(".left .scroll").scrollLeft = 1e6;
  $.atEnd = false;
}

/** A choice, where there is one. @param {View} view */
export function pick(view, word, options, chosen, act) {
  if (options.length < 2) return null;
  const made = options.map((o, i) => h("option", { value: i, selected: i === chosen }, o));
  const onchange = (e) => act(+e.target.value);
  const select = h("select", { "data-pick": word, onchange }, made);
  return h("label", { class: "pick" }, view.say(word), " ", select);
}

/** "all 4 layers" @param {View} view @param {{layers: number[]}} group */
export const allLayers = (view, { layers }) => view.say("layers_all", layers.length);

/** How many of the pairs may attend. @param {View} view @param {import("./masks.js").Mask} mask */
export function pairsText(view, mask) {
  const { queries, keys } = mask;
  const grouped = [pairs(mask), queries * keys].map((n) => n.toLocaleString("en"));
  return view.say("pairs", queries, keys, ...grouped);
}

/**
 * @param {View} view
 * @param {Call} base
 * @param {Sequence | null} seq
 * @param {any} box
 * @param {{most?: [number, number], rows?: boolean, rank?: number}} [how]  room for the
 *   cells; with a choice of rows; rank of the heading
 */
export function drawAttention(view, base, seq, box, { most, rows = true, rank = 4 } = {}) {
  const { rec } = view;
  const measured = base.attention.filter(
    (a) => a.value != null && rec.value(a.value).kind === "tensor",
  );
  const groups = measured.filter((a) => rec.whole(a.value));
  const title = view.h(rank, view.say("attention"));
  const group = groups[view.group] || groups[0];
  const mask = group && seq && rec.mask(group, view.row);
  if (!mask) {
    const large = measured[0] && rec.value(measured[0].value);
    const why = large ? view.say(tooLarge(large), `[${large.shape.join(", ")}]`) : "";
    box.replaceChildren(title, h("p", { class: "note" }, why || view.say("no_attention")));
    return;
  }
  const again = (word, change) => (i) => {
    change(i);
    drawAttention(view, base, seq, box, { most, rows, rank });
    view.paintAll();
    box.querySelector(`[data-pick="${word}"]`)?.focus();
  };
  const numbers = rows ? seq.rows.map((_, i) => String(i)) : [];
  const layers = groups.map((g) => spans(g.layers));
  const one = groups.length === 1 ? allLayers(view, group) : null;
  const shown = onAxis(mask, seq.rows[view.row].roles.length);
  const axes = axesOf(view, seq, shown);
  const rest = pairsText(view, shown);
  const hover = h("p", { class: "hover", "aria-live": "off" }, rest);
  const tell = (q, k) => {
    hover.textContent = q == null ? rest : pairText(view, shown, axes, q, k);
  };
  const label = `${view.say("attention")}: ${rest}`;
  const words = /** @type {[string, string]} */ ([view.say("keys"), view.say("queries")]);
  box.replaceChildren(
    h(
      "div",
      { class: "picks" },
      title,
      pick(
        view,
        "batch_row",
        numbers,
        view.row,
        again("batch_row", (i) => (view.row = i)),
      ),
      pick(
        view,
        "layers",
        layers,
        view.group,
        again("layers", (i) => (view.group = i)),
      ),
      one ? h("span", { class: "soft" }, one) : null,
    ),
    drawGrid(view, shown, { label, axes, words, tell, most }),
    hover,
  );
}

/** What stands at each column of the row that is shown. @param {View} view @param {Sequence} seq */
function ticksOf(view, seq) {
  const row = seq.rows[view.row];
  let order = 0;
  return range(row.roles.length).map((index) => {
    const role = view.roleOf(row.roles[index]);
    const id = row.ids?.[index];
    const text = id == null ? null : (view.rec.text(id) ?? String(id));
    const plain = role === "padding" && hollow(text) ? null : text;
    const glyph = role === "token" ? "" : view.mark(role).glyph;
    return { index, role, text: plain, order: role === "virtual" ? order++ : null, glyph };
  });
}

/** What stands at each key and each query. @param {View} view @param {Sequence} seq */
export function axesOf(view, seq, mask) {
  const ticks = view.rec.once(`ticks ${seq.call} ${view.row}`, () => ticksOf(view, seq));
  const queries = ticks.slice(seq.query_start);
  return { keys: ticks.slice(mask.start), queries };
}

/** @param {View} view */
export function pairText(view, mask, axes, q, k) {
  const name = (x) => {
    const glyph = view.mark(x.role).glyph;
    if (x.role === "virtual") return `${glyph}${x.order + 1}`;
    return view.say("at", x.text == null ? glyph : `'${seen(x.text)}'`, x.index);
  };
  const may = mayAttend(mask, q, k) ? "may" : "may_not";
  return view.say(may, name(axes.queries[q]), name(axes.keys[k]));
}

/** @param {View} view @param {Call} base @param {boolean} known */
function cacheLine(view, base, known) {
  const c = view.rec.caches.get(base.id);
  if (!c || (!c.before && c.after == null)) return null;
  const after = c.after ?? c.before;
  const told = [
    known ? view.say("cache_line", c.before, after) : view.say("cache_later", c.before),
  ];
  if (c.max_length) told.push(view.say("of_max", c.max_length));
  if (c.virtual && known) told.push(view.say("of_them", c.virtual));
  const text = h("span", { class: "soft" }, told.join(" · "));
  const bar = known ? cacheBar(view, after, base, c.before) : cacheBar(view, c.before, base);
  return h("div", { class: "cache-line" }, view.h(4, view.say("cache"), text), bar);
}

/** @param {View} view @param {Call} base @param {boolean} upcoming @param {boolean} known */
function inAndOut(view, base, upcoming, known) {
  const list = (entries, shown) => {
    const rows = entries.filter(([, i]) => view.rec.value(i).value !== null);
    return h(
      "dl",
      {},
      rows.flatMap(([name, i]) => [h("dt", { class: "mono" }, name), h("dd", {}, shown(i))]),
    );
  };
  const type = (i) => {
    const v = view.rec.value(i);
    if (v.role !== "loss" || v.shape?.length) return typeOf(view, v);
    return h("span", { class: "type mono" }, numberText(view.rec.numbers(i)?.[0] ?? "?"));
  };
  const outputs = Object.entries(base.outputs);
  const failed =
    base.raised && known ? h("p", { class: "note" }, view.say("nothing_back")) : null;
  const back = known
    ? failed || list(outputs, type)
    : h("p", { class: "note" }, view.say("not_yet", base.last + 1));
  return h(
    "div",
    { class: "io" },
    h(
      "div",
      {},
      view.h(4, view.say(upcoming ? "will_reach" : "reached")),
      list(Object.entries(base.args), type),
    ),
    h("div", { class: known ? null : "later" }, view.h(4, view.say("came_back")), back),
  );
}
