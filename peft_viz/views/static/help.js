// The header, the line of keys at the bottom, and the list of keys and marks.
import { h, icon } from "./dom.js";
import { KEYS } from "./keys.js";
import { copyMenu } from "./copies.js";
import { legend } from "./sequence.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

/** "Prompt tuning" @param {View} view */
export function methodName(view) {
  const type = view.rec.about.peft_type || "?";
  const known = view.rec.payload.method || { en: type, zh: type };
  const name = known[view.language ? "zh" : "en"];
  if (/^[a-z]+[A-Z]/.test(name)) return name; // rsLoRA
  return name.slice(0, 1).toUpperCase() + name.slice(1);
}

/** What one looks at, and the ways to look. @param {View} view @param {any} tabs */
export function header(view, tabs) {
  const { $ } = view;
  const a = view.rec.about;
  const n = a.num_virtual_tokens;
  const method = methodName(view);
  const facts = [
    n ? view.say("virtual_n", n) : null,
    `${a.implementation} ${a.implementation_version}`,
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
  const round = (word, key, sign, act, more = {}) => {
    const told = { "aria-label": view.say(word), title: `${view.say(word)} (${key})` };
    return h("button", { type: "button", class: "round", ...told, ...more, onclick: act }, sign);
  };
  const pressed = { "aria-pressed": String(view.presenting) };
  $.present = round("present", "p", icon("large"), () => view.present(), pressed);
  return h(
    "header",
    {},
    h("div", { class: "what" }, title, h("p", { class: "facts" }, told)),
    tabs,
    h(
      "div",
      { class: "knobs" },
      h("div", { class: "group", role: "group", "aria-label": view.say("language") }, languages),
      round("theme", "", "◐", () => view.turnTheme()),
      view.steps ? copyMenu(view) : null,
      view.steps ? $.present : null,
      round("help", "?", "?", () => view.help()),
    ),
  );
}

/** The keys of the open view, at the bottom. @param {View} view */
export function keyLine(view) {
  const shown = [...KEYS[view.tab], ...KEYS.all].filter(([, word]) => FIRST.has(word));
  const one = (/** @type {any} */ [names, word]) => {
    const keys = names.slice(0, 2).map((n) => h("kbd", {}, n));
    return h("span", { class: "press" }, keys, view.say(word));
  };
  view.$.keyLine.replaceChildren(...shown.map(one));
}

const FIRST = new Set(
  (
    "key_moment key_step key_into key_back key_change key_decision key_over key_out key_decode " +
    "key_layer key_base key_search key_present key_help"
  ).split(" "),
);

/** @param {View} view */
export function helpDialog(view) {
  const rows = (list) => {
    const named = list.filter(([, word]) => word);
    return named.map(([names, word]) => [
      h(
        "dt",
        {},
        names.map((n) => h("kbd", {}, n)),
      ),
      h("dd", {}, view.say(word)),
    ]);
  };
  const part = (word, list) => [
    view.h(4, view.say(word)),
    h("dl", { class: "keys" }, rows(list)),
  ];
  const fresh = h(
    "span",
    {},
    h("i", { class: "key m-plain fresh" }, " "),
    view.say("changed_cell"),
  );
  const faint = h("span", {}, h("i", { class: "key m-token unborn" }, "a"), view.say("faint"));
  const yes = h("span", { class: "badge yes" }, "✓ True");
  const no = h("span", { class: "badge no" }, "✗ False");
  const marks = Object.keys(view.rec.payload.marks || {});
  const close = { type: "button", class: "close", onclick: () => dialog.close() };
  const dialog = h(
    "dialog",
    { "aria-label": view.say("help") },
    view.h(3, view.say("keys_title")),
    h(
      "div",
      { class: "keyparts" },
      h("div", {}, part("tab_story", KEYS.story), part("all_views", KEYS.all)),
      h(
        "div",
        {},
        part("tab_lines", KEYS.lines),
        part("tab_decoding", KEYS.decoding.slice(0, 1)),
      ),
    ),
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
