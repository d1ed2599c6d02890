// What can be chosen. The controls are made once; `show` brings them up to date.
import { h } from "../dom.js";
import { MOST_LETTERS, MOST_PADDING } from "./state.js";

/** @typedef {import("./page.js").PeftVizPlayground} View */

/** @param {View} view @returns {{node: HTMLElement, show: () => void}} */
export function controls(view) {
  const shows = [];
  const put = (made) => {
    shows.push(made.show);
    return made.node;
  };
  const say = (name) => view.say(name);
  const node = h(
    "div",
    { class: "controls" },
    put(wordField(view)),
    put(choice(view, "task", "task", view.facts.tasks, say, { on: true })),
    put(choice(view, "learned_as", "method", Object.keys(view.facts.methods), say, { on: true })),
    put(onOff(view)),
    put(padding(view)),
    put(positions(view)),
    put(layers(view)),
  );
  return { node, show: () => shows.forEach((show) => show()) };
}

const field = (view, word, name, ...kids) => {
  const label = h("span", { class: "field-name", id: `name-${name}` }, view.say(word));
  return h("div", { class: `field ${name}` }, label, kids);
};

/** @param {View} view */
function wordField(view) {
  const input = h("input", {
    type: "text",
    "aria-labelledby": "name-word",
    maxlength: MOST_LETTERS,
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    oninput: () => view.change({ word: input.value.replaceAll("=", "") }),
  });
  const show = () => {
    if (input.value !== view.state.word) input.value = view.state.word;
  };
  return { node: field(view, "word", "word", input), show };
}

/** One of several. @param {View} view @param {Record<string, any>} [also] changes with it */
function choice(view, word, name, values, text, also) {
  const buttons = values.map((value) => {
    const onclick = () => view.change({ [name]: value, ...also });
    const props = { type: "button", onclick, "data-value": String(value) };
    return h("button", props, text(value));
  });
  const props = { role: "group", class: "choice", "aria-labelledby": `name-${name}` };
  const show = () => {
    for (const b of buttons) {
      b.setAttribute("aria-pressed", String(b.dataset.value === String(view.state[name])));
    }
  };
  return { node: field(view, word, name, h("div", props, buttons)), show };
}

/** @param {View} view */
function onOff(view) {
  const text = h("span", {});
  const onclick = () => view.change({ on: !view.state.on });
  const labels = { role: "switch", "aria-labelledby": "name-on" };
  const knob = h("i", { class: "knob", "aria-hidden": "true" });
  const button = h("button", { type: "button", class: "switch", ...labels, onclick }, knob, text);
  const show = () => {
    button.setAttribute("aria-checked", String(view.state.on));
    text.textContent = view.say(view.state.on ? "on" : "off");
  };
  return { node: field(view, "adapter", "on", button), show };
}

/** @param {View} view */
function padding(view) {
  const move = (by) => () => {
    const pad = Math.max(0, Math.min(MOST_PADDING, view.state.pad + by));
    view.change({ pad });
  };
  const label = (word) => `${view.say("padding")}: ${view.say(word)}`;
  const step = (by, word, sign) => {
    const props = { type: "button", onclick: move(by), "aria-label": label(word) };
    return h("button", props, sign);
  };
  const less = step(-1, "less", "−");
  const more = step(1, "more", "+");
  const count = h("output", { "aria-labelledby": "name-pad" });
  const show = () => {
    count.textContent = String(view.state.pad);
    less.disabled = view.state.pad === 0;
    more.disabled = view.state.pad === MOST_PADDING;
  };
  const box = h("div", { class: "stepper" }, less, count, more);
  return { node: field(view, "padding", "pad", box), show };
}

/** @param {View} view */
const positions = (view) => {
  return choice(view, "positions", "counted", [false, true], (value) => {
    return view.say(value ? "counted" : "not_counted");
  });
};

/** LoRA stands in layers: each can be left out. @param {View} view */
function layers(view) {
  const count = view.facts.config.num_hidden_layers;
  const buttons = Array.from({ length: count }, (_, layer) => {
    const onclick = () => {
      const off = view.state.off.filter((x) => x !== layer);
      view.change({ off: off.length < view.state.off.length ? off : [...off, layer].sort() });
    };
    return h("button", { type: "button", onclick, "data-value": layer }, String(layer));
  });
  const props = { role: "group", class: "choice", "aria-labelledby": "name-layers" };
  const node = field(view, "layers_on", "layers", h("div", props, buttons));
  const show = () => {
    node.hidden = view.state.method !== "lora";
    for (const b of buttons) {
      b.setAttribute("aria-pressed", String(!view.state.off.includes(+b.dataset.value)));
    }
  };
  return { node, show };
}
