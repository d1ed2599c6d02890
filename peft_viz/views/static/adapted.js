// What the adapted layers that were followed did in a call of the base model.
import { h } from "./dom.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

const LAYERS_SHOWN = 64;
const size_ = (shape) => (shape ? `[${shape.join(", ")}]` : "–");
const values = (named) =>
  Object.values(named || {})
    .map((x) => String(x))
    .join(", ") || "–";

/**
 * A row for each layer: its name, A and B, scaling, dropout, merged or not, the update's size.
 * @param {View} view
 * @param {import("./steps.js").Call} base
 */
export function adaptedBox(view, base) {
  const all = base.measured?.adapted || [];
  if (!all.length) return h("p", { class: "note" }, view.say("not_followed"));
  const head = ["layer", "A", "B", "scaling", "dropout", "merged", "ratio"];
  const rows = all.slice(0, LAYERS_SHOWN).map((x) => {
    const ratio = typeof x.ratio === "number" ? `${(100 * x.ratio).toPrecision(3)} %` : "–";
    const cells = [size_(x.a), size_(x.b), values(x.scaling), values(x.dropout)];
    cells.push(view.say(x.merged ? "yes" : "no"), ratio);
    const name = h("th", { scope: "row", class: "mono", title: x.type }, x.name);
    return h(
      "tr",
      {},
      name,
      cells.map((c) => h("td", {}, c)),
    );
  });
  const named = head.map((n) =>
    h("th", { scope: "col" }, n.length > 1 ? view.say(`lora_${n}`) : n),
  );
  const region = { class: "scroll", role: "region", "aria-label": view.say("adapted") };
  return h(
    "div",
    { class: "wide" },
    h("div", { class: "h4" }, view.say("adapted")),
    h(
      "div",
      region,
      h("table", { class: "list" }, h("thead", {}, h("tr", {}, named)), h("tbody", {}, rows)),
    ),
    h("p", { class: "note" }, view.say("lora_note")),
  );
}
