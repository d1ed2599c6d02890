// Texts as a figure can show them. Nothing here needs a browser.

/** @param {number} x @param {number} lo @param {number} hi */
export const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x));

/** [0, 1, ... n - 1] @param {number} n */
export const range = (n) => Array.from({ length: n }, (_, i) => i);

const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "⏎" };
const SPACES = /[ \n\t\r]/g;
// Characters that show nothing or turn the direction of what follows: control characters, line
// and paragraph separators, marks of direction.
const UNSEEN = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f" +
    "\\u2800\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e001f}]",
  "gu",
);
// Joiners, soft hyphens and variation selectors say how the letter before them is drawn; where
// there is none, they show nothing.
const SHAPING = new RegExp(
  "^[\\u00ad\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200c\\u200d" +
    "\\u3164\\ufe00-\\ufe0f\\uffa0\\u{e0020}-\\u{e0fff}]",
  "u",
);

const { Segmenter } = /** @type {any} */ (Intl);
const SEGMENTER = Segmenter && new Segmenter(undefined, { granularity: "grapheme" });

/**
 * The letters of a text as a reader counts them: a joined emoji is one.
 * @param {string} text
 * @returns {string[]}
 */
export function letters(text) {
  return SEGMENTER ? Array.from(SEGMENTER.segment(text), (x) => x.segment) : Array.from(text);
}

/**
 * A number with the four digits that count, as the story writes it, however small it is.
 * @param {unknown} x
 */
export function numberText(x) {
  const isPart = typeof x === "number" && !Number.isInteger(x);
  return String(isPart ? Number(x.toPrecision(4)) : x);
}

/**
 * A token's text with its white space made visible, cut after `limit` letters.
 * @param {string} text
 * @param {number} [limit]
 */
export function seen(text, limit = 12) {
  if (text === "") return "∅";
  const shown = text.replace(SPACES, (c) => SIGNS[c]).replace(UNSEEN, "·").replace(SHAPING, "·");
  if (shown.length <= limit) return shown;
  const parts = letters(shown.slice(0, 40 * limit));
  return parts.length > limit
    ? parts.slice(0, Math.max(1, limit - 1)).join("") + "…"
    : parts.join("");
}

/** Is the text the name of a special token, "<pad>" or "[PAD]"? @param {string | null} text */
export const hollow = (text) => text != null && /^[<[].*[\]>]$/.test(text);

/** Width of a text in Latin letters. @param {string} text */
export const wide = (text) => {
  return letters(text).reduce((n, c) => n + (c > "\u2e7f" ? 1.7 : 1), 0);
};

/** The last part of a dotted name. @param {string} name */
export const short = (name) => name.split(".").pop();

/** What stands in front of it: "PeftModel." @param {{function: string}} call */
export const owner = (call) => call.function.slice(0, -short(call.function).length);

/** A value as Python writes it. @param {any} v */
export function pythonText(v) {
  if (v === null) return "None";
  if (typeof v === "boolean") return v ? "True" : "False";
  return typeof v === "string" ? `'${v}'` : String(v);
}

/** [0, 1, 2, 5] -> "0–2, 5" @param {number[]} numbers */
export function spans(numbers) {
  const out = [];
  for (const n of numbers) {
    const last = out[out.length - 1];
    if (last && n === last[1] + 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(", ");
}
