// The tokenizer: one token for each letter, and names in angle brackets for whole tasks.

export class Tokens {
  /** @param {string[]} vocabulary */
  constructor(vocabulary) {
    this.vocabulary = vocabulary;
    this.ids = new Map(vocabulary.map((text, id) => [text, id]));
    this.special = vocabulary.filter((text) => text.length > 1);
    this.pad = this.id("<pad>");
    this.end = this.id("<eos>");
  }

  /** @param {string} text of one token */
  id(text) {
    return this.ids.get(text) ?? this.ids.get("<unk>");
  }

  /** @param {string} text @returns {string[]} a piece for each token */
  split(text) {
    const out = [];
    while (text) {
      const name = this.special.find((x) => text.startsWith(x)) || [...text][0];
      out.push(name);
      text = text.slice(name.length);
    }
    return out;
  }

  /** @param {string} text @returns {number[]} */
  encode(text) {
    return this.split(text).map((piece) => this.id(piece));
  }

  /** The letters that have no token, each once. @param {string} text @returns {string[]} */
  unknown(text) {
    return [...new Set(this.split(text))].filter((piece) => !this.ids.has(piece));
  }

  /** The letters, without the special tokens. @param {number[]} ids */
  decode(ids) {
    const texts = ids.map((id) => this.vocabulary[id]);
    return texts.filter((text) => text.length === 1).join("");
  }
}
