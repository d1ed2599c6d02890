// What is seen, in a sentence or two. Each says what was computed: the answer is compared with that
// of the same question without the change.
import { nameOf } from "./figure.js";
import { MOST_LETTERS } from "./state.js";

/** @typedef {import("./page.js").PeftVizPlayground} View */

/** @param {View} view @returns {string[]} */
export function sentences(view) {
  const { state, answers } = view;
  if (!state.word) return [view.say("say_empty")];
  if (!state.on) return [view.say("say_off"), ...aboutTheWord(view)];
  const { virtual, modules } = view.facts.methods[state.method];
  const numbers = view.number(view.countOf(state.method));
  const out = [view.say(`say_${state.method}`, virtual || modules.length, numbers)];
  const { columns } = answers.shown;
  const turned = columns.filter((c) => state.out.includes(c.name));
  const names = (list) => list.map((c) => nameOf(view, c)).join(view.say("comma"));
  const against = (change, word = "") => compared(view, answers.shown, view.ask(change), word);
  const hidden = turned.filter((c) => !c.seen);
  const shown = turned.filter((c) => c.seen);
  const unturned = (list) => {
    return { out: state.out.filter((name) => !list.some((c) => c.name === name)) };
  };
  if (hidden.length) out.push(view.say("say_masked", names(hidden), against(unturned(hidden))));
  if (shown.length) out.push(view.say("say_seen", names(shown), against(unturned(shown))));
  if (state.method === "lora" && state.off.length) {
    const layers = state.off.join(view.say("comma"));
    out.push(view.say("say_layers", layers, against({ off: [] })));
  }
  if (state.pad && state.counted) {
    const word = virtual ? "say_counted" : "say_counted_lora";
    out.push(view.say(word, state.pad, against({ counted: false }, "_begin")));
  } else if (state.pad && !shown.length) {
    out.push(view.say("say_padded", against({ pad: 0 }, "_begin")));
  }
  return [...out, ...aboutTheWord(view)];
}

/** What of the word the model cannot read, or did not learn. @param {View} view */
function aboutTheWord(view) {
  const { word } = view.state;
  const [least, most] = view.facts.lengths;
  const unknown = view.tokens.unknown(word);
  const learned = /^[a-z]*$/.test(word) && word.length >= least && word.length <= most;
  const out = [];
  if (unknown.length) out.push(view.say("say_unknown", unknown.join(view.say("comma"))));
  else if (!learned) out.push(view.say("say_unlike", least, most));
  if ([...word].length >= MOST_LETTERS) out.push(view.say("say_full", MOST_LETTERS));
  return out;
}

/** Is the answer another one? @param {View} view */
function compared(view, now, before, word) {
  if (now.answer === before.answer) return view.say(`same${word}`);
  return view.say(`changed${word}`, before.answer ? `“${before.answer}”` : view.say("nothing"));
}
