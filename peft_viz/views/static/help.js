// The header with its first sentence, and the list of keys and marks.
import { h } from "./dom.js";
import { legend } from "./sequence.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

const KEYS = [
  [["→", "←"], "key_step"],
  [["n", "N"], "key_change"],
  [["d", "D"], "key_decision"],
  [["↓", "↑"], "key_call"],
  [["PageDown", "PageUp"], "key_base"],
  [["Home", "End"], "key_ends"],
  [["Space"], "key_play"],
  [["?"], "key_help"],
];

/** What one looks at, and what to press. @param {View} view */
export function header(view) {
  const a = view.rec.about;
  const n = a.num_virtual_tokens;
  const known = view.rec.payload.method || { en: a.peft_type || "?", zh: a.peft_type || "?" };
  const name = known[view.language ? "zh" : "en"];
  const method = name.slice(0, 1).toUpperCase() + name.slice(1);
  const facts = [
    `${a.implementation} ${a.implementation_version}`,
    a.peft_type,
    n ? view.say(n === 1 ? "virtual_1" : "virtual_n", n) : null,
    `transformers ${a.transformers}`,
    `torch ${a.torch}`,
  ];
  const told = [...new Set(facts.filter(Boolean))].map((f) => h("span", {}, f));
  const on = h("span", { class: "soft" }, view.say("on"));
  const title = view.h(2, method, " ", on, " ", a.model_class || "");
  const languages = ["EN", "中文"].map((label, i) => {
    const pressed = { "aria-pressed": String(i === view.language), "data-lang": i };
    const act = { type: "button", lang: i ? "zh" : "en", onclick: () => view.speak(i) };
    return h("button", { ...act, ...pressed }, label);
  });
  const round = { "aria-label": view.say("help"), title: `${view.say("help")} (?)` };
  return h(
    "header",
    {},
    h("div", { class: "what" }, title, h("p", { class: "facts" }, told), lead(view)),
    h("div", { class: "group", role: "group", "aria-label": view.say("language") }, languages),
    h("button", { type: "button", class: "round", ...round, onclick: () => view.help() }, "?"),
  );
}

/** @param {View} view */
function lead(view) {
  const key = (name, word) =>
    h("span", { class: "press" }, h("kbd", {}, name), " ", view.say(word));
  const keys = [key("→", "lead_line"), key("n", "lead_change")];
  if (view.rec.bases.length > 1) keys.push(key("PageDown", "lead_base"));
  keys.push(key("?", "lead_help"));
  return h("p", { class: "lead" }, h("span", {}, view.say("lead")), keys);
}

/** @param {View} view */
export function helpDialog(view) {
  const rows = KEYS.map(([names, word]) => {
    const keys = /** @type {string[]} */ (names).map((n) => h("kbd", {}, n));
    return [h("dt", {}, keys), h("dd", {}, view.say(/** @type {string} */ (word)))];
  });
  const fresh = h(
    "span",
    {},
    h("i", { class: "key m-plain fresh" }, " "),
    view.say("changed_cell"),
  );
  const faint = h(
    "span",
    { class: "later" },
    h("i", { class: "key m-token" }),
    view.say("faint"),
  );
  const yes = h("span", { class: "badge yes" }, "✓ True");
  const no = h("span", { class: "badge no" }, "✗ False");
  const marks = Object.keys(view.rec.payload.marks || {});
  const close = { type: "button", class: "close", onclick: () => dialog.close() };
  const dialog = h(
    "dialog",
    { "aria-label": view.say("help") },
    view.h(3, view.say("keys_title")),
    h("dl", { class: "keys" }, rows),
    h("p", { class: "note" }, view.say("keys_focus")),
    h("p", { class: "note" }, view.say("link")),
    view.h(3, view.say("marks")),
    legend(view, marks),
    h("p", { class: "legend" }, fresh, faint, h("span", {}, yes, " ", no)),
    h("button", close, view.say("close")),
  );
  dialog.addEventListener("click", (e) => {
    if (e.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => view.$.root.focus({ preventScroll: true }));
  return dialog;
}
