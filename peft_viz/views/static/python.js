// Colouring Python, just enough to read it.

const KEYWORDS = new Set(
  (
    "and as assert async await break class continue def del elif else except finally for from " +
    "global if import in is lambda nonlocal not or pass raise return try while with yield " +
    "match case"
  ).split(" "),
);
const CONSTANTS = new Set(["None", "True", "False", "self", "cls"]);
const STRING = [
  '"""[^]*?(?:"""|$)',
  "'''[^]*?(?:'''|$)",
  '"(?:\\\\.|[^"\\\\\\n])*"?',
  "'(?:\\\\.|[^'\\\\\\n])*'?",
].join("|");
const PARTS = [
  "(#[^\\n]*)",
  `([rbfuRBFU]{0,2}(?:${STRING}))`,
  "(\\b\\d[\\w.]*)",
  "(@[\\w.]+)",
  "([A-Za-z_]\\w*)",
  "\\n|[^\\S\\n]+|.",
];
const TOKEN = new RegExp(PARTS.join("|"), "g");

/**
 * Per line, a list of [class, piece]: c comment, s string, n number or constant, d decorator,
 * k keyword, f the name behind def or class.
 * @param {string} text
 * @returns {[string, string][][]}
 */
export function colourLines(text) {
  /** @type {[string, string][][]} */
  const lines = [[]];
  let def = false;
  for (const m of text.matchAll(TOKEN)) {
    const word = m[5];
    let cls = ["c", "s", "n", "d"][[1, 2, 3, 4].findIndex((i) => m[i] != null)] || "";
    if (word != null) {
      cls = KEYWORDS.has(word) ? "k" : CONSTANTS.has(word) ? "n" : def ? "f" : "";
      def = word === "def" || word === "class";
    }
    m[0].split("\n").forEach((piece, i) => {
      if (i) lines.push([]);
      const line = lines[lines.length - 1];
      const last = line[line.length - 1];
      if (last?.[0] === cls) last[1] += piece; // one piece: there is less to lay out
      else if (piece) line.push([cls, piece]);
    });
  }
  return lines;
}

/** The text without the margin that all its lines share. @param {string} text */
export function dedent(text) {
  const lines = text.split("\n");
  let margin = Infinity;
  for (const l of lines) if (l.trim()) margin = Math.min(margin, l.length - l.trimStart().length);
  return Number.isFinite(margin) ? lines.map((l) => l.slice(margin)).join("\n") : text;
}

/** @type {WeakMap<object, {lines: [string, string][][], def: number}>} */
const READ = new WeakMap();

/**
 * The lines of a source, coloured, and which of them has the name of the function. Read once.
 * @param {{text: string}} source
 */
export function readSource(source) {
  if (!READ.has(source)) {
    const text = dedent(source.text.replace(/\n$/, ""));
    const def = text.split("\n").findIndex((l) => /^(async )?def /.test(l));
    READ.set(source, { lines: colourLines(text), def: Math.max(0, def) });
  }
  return READ.get(source);
}
