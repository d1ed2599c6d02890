// The search: every word of the question must stand in a section, in any language. Chinese has no spaces, so a word
// is looked for as it stands. A word of the field is looked for in the other language, too. Where nothing is found,
// the sections whose titles look most like the question are shown.
const SPLIT = /[\s,;:!?，。、；：！？（）()]+/u;
const fold = (text) => text.normalize("NFKC").toLowerCase();
const pairs = (text) => [...text].slice(1).map((c, i) => [...text][i] + c);

/** What is searched of an entry, made once. */
function prepared(entry) {
  entry.folded ||= { title: fold(entry.title), section: fold(entry.section), text: fold(entry.text) };
  return entry.folded;
}

/** How well one word fits one place: whole, at the start of a word, inside one, or not at all. */
function fit(text, word) {
  const at = text.indexOf(word);
  if (at < 0) return 0;
  if (text === word) return 3;
  return at === 0 || !/[\p{L}\p{N}]/u.test(text[at - 1]) ? 2 : 1;
}

/** The points of an entry for one word and its translations. */
function points(entry, words) {
  const { title, section, text } = prepared(entry);
  const score = (word) => 8 * fit(section, word) + 5 * fit(title, word) + 2 * fit(text, word);
  return Math.max(...words.map((word, i) => score(word) * (i ? 0.8 : 1)));
}

/** A word, and what the other language calls it. */
function translated(word, dictionary) {
  const found = dictionary.filter((pair) => pair.some((term) => fold(term) === word)).flat();
  return [...new Set([word, ...found.map(fold)])];
}

/** The question as a list of terms; a term of several words that the dictionary knows stays together. */
function terms(question, dictionary) {
  const whole = fold(question).split(SPLIT).filter(Boolean);
  const joined = whole.join(" ");
  return translated(joined, dictionary).length > 1 ? [joined] : whole;
}

/** How many of the question's pairs of letters stand in the titles, or, in Chinese, in the text. */
function likeness(entry, question) {
  const { title, section, text } = prepared(entry);
  const wide = /\p{Script=Han}/u.test(question);
  const where = wide ? `${title} ${section} ${text}` : `${title} ${section}`;
  const all = pairs(question);
  return all.length ? all.filter((pair) => where.includes(pair)).length / all.length : 0;
}

function best(entries, score, least, limit) {
  const scored = entries.map((entry) => [score(entry), entry]).filter(([s]) => s >= least);
  return scored
    .sort((a, b) => b[0] - a[0])
    .slice(0, limit)
    .map(([, entry]) => entry);
}

/** The sections that answer a question, the best first. */
function search({ entries, dictionary }, question, limit) {
  const asked = terms(question, dictionary).map((word) => translated(word, dictionary));
  if (!asked.length) return [];
  const each = (entry) => {
    const found = asked.map((words) => points(entry, words));
    return found.every(Boolean) ? found.reduce((a, b) => a + b) : 0;
  };
  const found = best(entries, each, 1e-9, limit);
  const whole = fold(question).replace(/\s+/g, "");
  return found.length ? found : best(entries, (e) => likeness(e, whole), 0.6, 5);
}
if (typeof window !== "undefined") window.peftVizSearch = search;
