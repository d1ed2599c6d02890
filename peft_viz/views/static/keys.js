// What each key does, in each view; the list of keys is written from the same tables.

/** @typedef {import("./element.js").PeftVizTrace} View */

/**
 * Key or keys -> [what it is called in the list of keys, what it does].
 * @type {Record<string, [string[], string, Record<string, (view: View) => void>][]>}
 */
export const KEYS = {
  all: [
    [["1", "…", "5"], "key_tabs", {}],
    [
      ["PageDown", "PageUp"],
      "key_base",
      { PageDown: (v) => v.jumpBase(1), PageUp: (v) => v.jumpBase(-1) },
    ],
    [
      ["Home", "End"],
      "key_ends",
      { Home: (v) => v.move(-Infinity), End: (v) => v.move(Infinity) },
    ],
    [["Space"], "key_play", { " ": (v) => v.play() }],
    [["r"], "key_row", { r: (v) => v.nextRow(1), R: (v) => v.nextRow(-1) }],
    [["/"], "key_search", { "/": (v) => v.search() }],
    [["p"], "key_present", { p: (v) => v.present() }],
    [["y"], "key_copy", { y: (v) => v.copyLink() }],
    [["?"], "key_help", { "?": (v) => v.help() }],
  ],
  story: [
    [["→", "←"], "key_moment", { ArrowRight: (v) => v.move(1), ArrowLeft: (v) => v.move(-1) }],
    [
      ["↓", "Enter"],
      "key_into",
      { ArrowDown: (v) => v.openTab("lines"), Enter: (v) => v.openTab("lines") },
    ],
    [["↑"], "", { ArrowUp: () => {} }],
  ],
  lines: [
    [["→", "←"], "key_step", { ArrowRight: (v) => v.move(1), ArrowLeft: (v) => v.move(-1) }],
    [
      ["↑", "Esc"],
      "key_back",
      { ArrowUp: (v) => v.openTab("story"), Escape: (v) => v.openTab("story") },
    ],
    [["n", "N"], "key_change", { n: (v) => v.jumpChange(1), N: (v) => v.jumpChange(-1) }],
    [["d", "D"], "key_decision", { d: (v) => v.jumpDecision(1), D: (v) => v.jumpDecision(-1) }],
    [["o", "O"], "key_over", { o: (v) => v.stepOver(1), O: (v) => v.stepOver(-1) }],
    [["u"], "key_out", { u: (v) => v.stepOut() }],
    [
      ["↓", "c", "C"],
      "key_call",
      {
        ArrowDown: (v) => v.jumpCall(1),
        c: (v) => v.jumpCall(1),
        C: (v) => v.jumpCall(-1),
      },
    ],
    [["h"], "key_helpers", { h: (v) => v.foldHelpers() }],
  ],
  overview: [[["↑", "Esc"], "key_back", { Escape: (v) => v.openTab("story") }]],
  attention: [
    [["→", "←"], "key_layer", { ArrowRight: (v) => v.move(1), ArrowLeft: (v) => v.move(-1) }],
    [
      ["↑", "Esc"],
      "key_back",
      { ArrowUp: (v) => v.openTab("story"), Escape: (v) => v.openTab("story") },
    ],
  ],
  compare: [
    [["→", "←"], "key_decode", { ArrowRight: (v) => v.move(1), ArrowLeft: (v) => v.move(-1) }],
    [["Esc"], "key_back", { Escape: (v) => v.openTab("story") }],
  ],
  decoding: [
    [["→", "←"], "key_decode", { ArrowRight: (v) => v.move(1), ArrowLeft: (v) => v.move(-1) }],
    [["↓"], "key_into", { ArrowDown: (v) => v.openTab("lines") }],
    [
      ["↑", "Esc"],
      "key_back",
      { ArrowUp: (v) => v.openTab("story"), Escape: (v) => v.openTab("story") },
    ],
  ],
};

/**
 * What a key does in a view; undefined where it does nothing.
 * @param {string} tab
 * @param {string} key
 */
export function actOf(tab, key) {
  for (const [, , acts] of [...(KEYS[tab] || []), ...KEYS.all]) if (acts[key]) return acts[key];
  return undefined;
}

const SCROLLS = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", " "]);
const SIDEWAYS = new Set(["ArrowRight", "ArrowLeft"]);

/**
 * May the viewer take a key, or does the element that has the focus want it?
 * @param {Element} at
 * @param {string} key
 */
export function isOurs(at, key) {
  const is = (selector) => !!at.matches?.(selector);
  if (is("input:not([type=range]),select,textarea")) return false;
  if (is("input") && (SIDEWAYS.has(key) || SCROLLS.has(key))) return false;
  if (SIDEWAYS.has(key) && is(".figure,.scroll")) return false;
  if (SCROLLS.has(key) && is(".body")) return false;
  return !((key === " " || key === "Enter") && is("button,a,summary"));
}
