// The search: every word of the question must stand in a section, in any language. Chinese has no spaces, so a word
// is looked for as it stands. A word of the field is looked for in the other language, too. Where nothing is found,
// the sections whose titles look most like the question are shown.
const SPLIT = /[\s,;:!?，。、；：！？（）()]+/u;
const HAN = /\p{Script=Han}/u;
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
  if (text === word || text.endsWith(`.${word}`)) return 3;
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

/** How many letters must be changed, left out, put in or exchanged to make one word of another. */
function distance(a, b) {
  let [before, last] = [[], [...Array(b.length + 1).keys()]];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      row[j] = Math.min(row[j - 1] + 1, last[j] + 1, last[j - 1] + (same ? 0 : 1));
      const turned = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (turned) row[j] = Math.min(row[j], before[j - 2] + 1);
    }
    [before, last] = [last, row];
  }
  return last[b.length];
}

/** How alike a question and an entry are, 0 to 1: by pairs of Chinese characters, or by the words of the titles. */
function likeness(entry, question) {
  const { title, section, text } = prepared(entry);
  if (HAN.test(question)) {
    const all = pairs(question);
    const whole = `${title} ${section} ${text}`;
    return all.filter((pair) => whole.includes(pair)).length / (all.length || 1);
  }
  const words = `${title} ${section}`.split(/[^\p{L}\p{N}]+/u);
  const far = Math.min(...words.map((w) => (Math.abs(w.length - question.length) < 3 ? distance(w, question) : 9)));
  return far <= (question.length < 5 ? 1 : 2) ? 1 - far / question.length : 0;
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
    const own = HAN.test(question) && entry.href.startsWith("zh/") ? 3 : 1; // pages in the language of the question
    return found.every(Boolean) ? own * found.reduce((a, b) => a + b) : 0;
  };
  const found = best(entries, each, 1e-9, limit);
  const whole = fold(question).replace(/\s+/g, "");
  return found.length ? found : best(entries, (e) => likeness(e, whole), 0.4, 8);
}
if (typeof window !== "undefined") window.peftVizSearch = search;
