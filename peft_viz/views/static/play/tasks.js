// What each task asks for: the right answers, to compare the model's with. As in zoo/letters.py.

const ALPHABET = [..."abcdefghijklmnopqrstuvwxyz"];
const next = (c) => (ALPHABET.includes(c) ? ALPHABET[(ALPHABET.indexOf(c) + 1) % 26] : c);

/** @type {Record<string, (text: string) => string>} */
export const TASKS = {
  copy: (text) => text,
  reverse: (text) => [...text].reverse().join(""),
  upper: (text) => text.toUpperCase(),
  sort: (text) => [...text].sort().join(""),
  shift: (text) => [...text].map(next).join(""),
  rotate: (text) => text.slice(1) + text.slice(0, 1),
  vowels: (text) => text.replace(/[aeiou]/g, (c) => c.toUpperCase()),
};
