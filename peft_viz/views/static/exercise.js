// @ts-check
// <peft-viz-exercise>: a question that is answered in the browser, by the rules of
// `Exercise.check` in Python.
(() => {
  // 4-7, 4..7, 4 … 7
  const RUN = /(?<![\d.-])(\d+)(?:-|[\s,]*(?:…|\.{2,}|[–~～到至])[\s,]*)(\d+)(?![\d.])/g;

  /**
   * The numbers of a run, in full; a very long one, or one that falls, stays as it was written.
   * @param {string} found @param {string} from @param {string} to
   */
  function run(found, from, to) {
    const [first, length] = [Number(from), Number(to) - Number(from) + 1];
    if (length < 2 || length > 1000) return found;
    return Array.from({ length }, (_, i) => first + i).join(" ");
  }

  /**
   * The answer as it is compared: its numbers with a space between them, or its words in small
   * letters; in large ones, too, where choices differ by nothing else.
   * @param {string} answer
   * @param {string[]} [choices]
   */
  function plain(answer, choices = []) {
    const sizes = answer.trim().replace(/(?<=\d)\s*[x×*]\s*(?=\d)/g, " "); // 4 x 96
    const text = choices.length ? sizes : sizes.replace(RUN, run);
    const numbers = text.match(/-?\d+/g) || [];
    const other = text.replace(/-?\d+|[\s,;，；、()[\]]|torch\.Size/g, "");
    if (numbers.length && !other) return numbers.join(" ");
    const alike = new Set(choices.map((c) => c.toLowerCase())).size === choices.length;
    return (alike ? text.toLowerCase() : text).split(/\s+/).filter(Boolean).join(" ");
  }

  /**
   * @typedef {Record<string, string>} Texts
   * @typedef {{question: string, right: string, hints: Texts, choices: string[], why: string,
   *   also: string[], axes: string[], lengths: Texts, words: Texts, style: string}} Exercise
   */

  /**
   * What to say to an answer.
   * @param {Exercise} exercise
   * @param {string} answer
   * @returns {{right: boolean, text: string}}
   */
  function check(exercise, answer) {
    const { right, also = [], hints, choices, why, words } = exercise;
    const given = apart(plain(answer, choices), right);
    if (given === right || also.includes(given))
      return { right: true, text: [words.right, why].filter(Boolean).join(" ") };
    if (Object.hasOwn(hints, given)) return { right: false, text: hints[given] };
    return { right: false, text: compared(given.split(" ").filter(Boolean), exercise) };
  }

  /**
   * Ones and zeros with spaces between them, where the right answer has only such numbers.
   * @param {string} given @param {string} right
   */
  function apart(given, right) {
    const bits = /^[01]( [01])+$/.test(right) && /^[01 ]+$/.test(given);
    return bits ? [...given.replaceAll(" ", "")].join(" ") : given;
  }

  /**
   * How an answer differs from the right one that is as long.
   * @param {string[]} given @param {Exercise} exercise
   */
  function compared(given, { right: first, also = [], axes = [], lengths = {}, words }) {
    const rights = [first, ...also].map((one) => one.split(" "));
    const right = rights.find((one) => one.length === given.length) || rights[0];
    if (right.length < 2 || !given.every((x) => /^-?\d+$/.test(x))) return words.wrong;
    if (given.length !== right.length) {
      const other = fill(words.length, { right: right.length, given: given.length });
      return lengths[given.length] || other;
    }
    const wrong = right.flatMap((x, i) => (x === given[i] ? [] : [i]));
    const names = wrong.map((i) => axes[i]).join(words.comma);
    if (axes.length) return fill(words.axes, { names });
    return fill(words.places, { wrong: wrong.length, of: right.length, first: wrong[0] + 1 });
  }

  /** @param {string} text @param {Record<string, any>} named */
  function fill(text, named) {
    return text.replace(/\{(\w+)\}/g, (_, name) => String(named[name]));
  }

  if (typeof module === "object" && module.exports) {
    module.exports = { plain, check }; // under node, for the tests
    return;
  }
  if (customElements.get("peft-viz-exercise")) return;

  /** @param {string} base64 */
  const unpack = (base64) =>
    JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))));

  /**
   * An element with attributes and children.
   * @param {string} tag @param {Record<string, any>} [has] @param {(Node|string)[]} inside
   */
  function make(tag, has = {}, ...inside) {
    const made = Object.assign(document.createElement(tag), has);
    made.append(...inside);
    return made;
  }

  /** A name may be broken behind its points and underscores. @param {Element} code */
  function breakable(code) {
    const parts = (code.textContent || "").split(/(?<=[._])(?=\w)/);
    code.replaceChildren(...parts.flatMap((part, i) => (i ? [make("wbr"), part] : [part])));
    return code;
  }

  /** `code` in a sentence, as an element. @param {string} text */
  const marked = (text) =>
    text.split(/`([^`]+)`/).map((part, i) => (i % 2 ? breakable(make("code", {}, part)) : part));

  /** Is the text that surrounds an element light, on something dark? @param {Element} element */
  function isDark(element) {
    const [r, g, b] = (getComputedStyle(element).color.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    return 0.299 * r + 0.587 * g + 0.114 * b > 140;
  }

  /** When the page turns dark or light, its forms do, too. */
  const turned = () => {
    for (const element of document.querySelectorAll("peft-viz-exercise"))
      element.shadowRoot?.querySelector("form").classList.toggle("dark", isDark(element));
  };
  const later = () => setTimeout(turned, 60); // when the page has changed its colours
  const observer = new MutationObserver(later);
  for (const root of [document.documentElement, document.body])
    if (root) observer.observe(root, { attributes: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);

  let count = 0;

  customElements.define(
    "peft-viz-exercise",
    class extends HTMLElement {
      connectedCallback() {
        if (this.shadowRoot) return;
        const exercise = unpack(this.dataset.exercise || "");
        const root = this.attachShadow({ mode: "open" });
        root.append(make("style", { textContent: exercise.style }), this.form(exercise));
      }

      /** @param {Exercise} exercise */
      form(exercise) {
        const { question, words, choices } = exercise;
        const said = make("output", { ariaLive: "polite" });
        const asked = make("p", { id: "question", innerHTML: question });
        asked.querySelectorAll("code").forEach(breakable);
        const ask = choices.length ? chosen(choices) : typed(words.answer);
        const show = make("button", { type: "button", className: "quiet" }, words.show);
        const parts = [...ask.parts, make("button", {}, words.check), show];
        const answer = make("div", { className: "answer" }, ...parts);
        const form = make("form", { className: isDark(this) ? "dark" : "" }, asked, answer, said);
        // a group, no landmark: a page may ask the same twice
        answer.setAttribute("role", "group");
        answer.setAttribute("aria-labelledby", "question");
        const say = (/** @type {string} */ kind, /** @type {string} */ text) => {
          said.className = kind;
          said.replaceChildren(...marked(text));
        };
        form.addEventListener("submit", (event) => {
          event.preventDefault();
          const { right, text } = check(exercise, ask.answer());
          say(right ? "right" : "wrong", text);
        });
        show.addEventListener("click", () => {
          const isRight = (c) => plain(c, choices) === exercise.right;
          const solution = choices.find(isRight) || exercise.right;
          say("right", `${words.solution}: ${solution} ${exercise.why}`.trim());
        });
        // a notebook has keys of its own
        form.addEventListener("keydown", (event) => event.stopPropagation());
        return form;
      }
    },
  );

  /** One line to type in. @param {string} name */
  function typed(name) {
    const has = { type: "text", id: "answer", autocomplete: "off", spellcheck: false };
    const input = make("input", has);
    const label = make("label", { htmlFor: "answer" }, name);
    return { parts: [label, input], answer: () => input.value };
  }

  /** Some answers to choose from. @param {string[]} choices */
  function chosen(choices) {
    const name = `choice-${count++}`;
    const inputs = choices.map((value) => make("input", { type: "radio", name, value }));
    const labelled = (/** @type {any} */ input) =>
      make("label", { className: "choice" }, input, ` ${input.value}`);
    const parts = inputs.map(labelled);
    const answer = () => (inputs.find((input) => input.checked) || { value: "" }).value;
    return { parts, answer };
  }
})();
