// <peft-viz-playground>: the embedded model, run in the page. Its facts (sizes, names, colours) are
// a <script type="application/json"> child; its weights are another child, or come from the script
// that the attribute `weights` names, after the first paint.
import { colour, h } from "../dom.js";
import { copyText } from "../links.js";
import { hostTheme } from "../theme.js";
import { controls } from "./controls.js";
import { lane } from "./figure.js";
import { heat } from "./heat.js";
import { Llama } from "./llama.js";
import { Memory } from "./memory.js";
import { nextTokens } from "./next.js";
import { unpackTensors } from "./packed.js";
import { phrase } from "./phrases.js";
import { run } from "./run.js";
import { addressOf, BEGINNING, namesState, stateOf } from "./state.js";
import { TASKS } from "./tasks.js";
import { sentences } from "./told.js";
import { Tokens } from "./tokens.js";

const TAG = "peft-viz-playground";
const CSS = /*css*/ ""; // playground.py puts playground.css between the quotes
const MARKS = ["virtual", "token", "padding", "generated", "attended", "masked"];

export class PeftVizPlayground extends HTMLElement {
  /** @type {import("./state.js").State} */
  state = { ...BEGINNING };
  /** @type {0 | 1} */
  language = 0;
  /** @type {any} */
  facts = null;
  /** @type {Llama | null} */
  model = null;
  /** @type {Record<string, any>} elements of the frame */
  $ = {};
  /** @type {Record<string, string>} colours of the theme */
  paint = {};
  sizes = { cell: 30, gutter: 88 };
  /** @type {Memory} what the model has read */
  memory = new Memory();

  connectedCallback() {
    if (this.shadowRoot) return;
    this.attachShadow({ mode: "open" });
    this.facts = JSON.parse(this.querySelector('script[type="application/json"]').textContent);
    this.tokens = new Tokens(this.facts.vocabulary);
    this._follow();
    this._build();
    this._watch();
    requestAnimationFrame(() => setTimeout(() => this._load()));
  }

  say(name, ...values) {
    return phrase(this.language, name, ...values);
  }

  /** A number as it is written in the language. @param {number} n */
  number(n) {
    return n.toLocaleString(this.language ? "zh-CN" : "en-US");
  }

  /** How many numbers were learned with a method. @param {string} method */
  countOf(method) {
    const begin = `${this.facts.tasks[0]}.${method}.`;
    const sizes = this.facts.tensors.filter(([name]) => name.startsWith(begin));
    return sizes.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0);
  }

  // ---- state

  /** @param {Partial<import("./state.js").State>} part */
  change(part) {
    this.state = { ...this.state, ...part };
    const address = addressOf(this.state);
    history.replaceState(history.state, "", address ? `#${address}` : location.pathname);
    if (part.lang || part.theme) this._build();
    this.draw();
  }

  /** Turn the mask of a column over. @param {string} name */
  turn(name) {
    const out = this.state.out.filter((x) => x !== name);
    this.change({ out: out.length < this.state.out.length ? out : [...out, name] });
  }

  /** Take the state from the address, if it names one. */
  _follow() {
    if (namesState(location.hash)) this.state = stateOf(location.hash);
    const { facts, state } = this;
    if (!facts.tasks.includes(state.task)) state.task = facts.tasks[0];
    state.layer = Math.min(state.layer, facts.config.num_hidden_layers - 1);
    state.head = Math.min(state.head, facts.config.num_attention_heads - 1);
    const lang = state.lang || this.getAttribute("lang") || document.documentElement.lang;
    this.language = lang.startsWith("zh") ? 1 : 0;
  }

  _watch() {
    this._themed = () => this._paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this._themed);
    const observer = new MutationObserver(() => setTimeout(this._themed, 60));
    for (const el of [document.documentElement, document.body]) {
      observer.observe(el, { attributes: true });
    }
    addEventListener("hashchange", () => {
      if (!namesState(location.hash)) return;
      this._follow();
      this._build();
      this.draw();
      this.scrollIntoView();
    });
    new ResizeObserver(() => {
      if (this.clientWidth === this._wide) return;
      this._wide = this.clientWidth;
      requestAnimationFrame(() => this.draw());
    }).observe(this);
  }

  // ---- the model

  async _load() {
    try {
      const bytes = await this._bytes();
      const tensors = await unpackTensors({ ...this.facts, bytes });
      this.model = new Llama(this.facts.config, tensors);
      this.draw();
      this.dispatchEvent(new CustomEvent("peft-viz-ready", { bubbles: true }));
    } catch (error) {
      this.$.status.textContent = this.say("failed", error.message);
    }
  }

  /** @returns {Promise<string>} */
  _bytes() {
    const inside = this.querySelector('script[type="text/plain"]');
    if (inside) return Promise.resolve(inside.textContent.trim());
    const src = this.getAttribute("weights");
    return new Promise((done, failed) => {
      const script = h("script", {
        src,
        onload: () => done(/** @type {any} */ (window).peftVizWeights),
        onerror: () => failed(new Error(src)),
      });
      document.head.append(script);
    });
  }

  /**
   * The answer with some of the choices changed. What was computed before is not computed again.
   * @param {Partial<import("./state.js").State>} [part]
   */
  ask(part = {}) {
    const { word, task, method, on, pad, counted, out, off } = { ...this.state, ...part };
    const virtual = on && this.facts.methods[method].virtual; // where there is none, none is hidden
    const asked = {
      word,
      task: on ? task : "",
      method: on ? method : "none",
      padding: pad,
      counted,
      flipped: out.filter((name) => virtual || name[0] !== "v"),
      off: method === "lora" ? off : [],
    };
    return run(this.model, this.tokens, this.facts, asked, this.memory);
  }

  // ---- the page

  get laneName() {
    return this.say(this.state.on ? `with_${this.state.method}` : "with_off");
  }

  _build() {
    this._paintFirst();
    const { root } = this.$;
    this.$.controls = controls(this);
    this.$.told = h("p", { class: "told-now", "aria-live": "polite" });
    this.$.status = h("p", { class: "status", role: "status" }, this.say("loading"));
    this.$.figure = h("div", { class: "figure", tabindex: "0", role: "region" });
    this.$.figure.setAttribute("aria-label", this.say("tokens"));
    this.$.figure.onscroll = () => this._edge();
    this.$.attention = h("div", { class: "attention" });
    this.$.next = h("aside", { class: "next", "aria-label": this.say("next", "…") });
    this.$.took = h("span", {});
    root.replaceChildren(
      ...(this.hasAttribute("full") ? this._head() : []),
      this.$.controls.node,
      this.$.told,
      h("div", { class: "below" }, h("div", { class: "main" }, this.$.figure), this.$.next),
      this._foot(),
    );
    this.$.figure.append(this.$.status);
  }

  _paintFirst() {
    if (!this.$.root) {
      this.$.root = h("div", { class: "root" });
      const sheet = new CSSStyleSheet(); // a page's security policy may forbid style elements
      sheet.replaceSync(CSS);
      this.shadowRoot.adoptedStyleSheets = [sheet];
      this.shadowRoot.replaceChildren(this.$.root);
    }
    this.$.root.lang = this.language ? "zh-CN" : "en";
    this._colours();
  }

  _head() {
    const title = h("h1", {}, this.say("title"));
    return [title, h("p", { class: "lead" }, this.say("lead"))];
  }

  _foot() {
    const button = (word, onclick) => {
      return h("button", { type: "button", class: "quiet", onclick }, this.say(word));
    };
    const copied = h("span", { class: "copied", role: "status" });
    const link = async () => {
      copied.textContent = this.say((await copyText(location.href)) ? "copied" : "not_copied");
      setTimeout(() => (copied.textContent = ""), 3000);
    };
    const turn = () => this.change({ theme: this.theme === "dark" ? "light" : "dark" });
    const speak = () => {
      this.language = this.language ? 0 : 1;
      this.change({ lang: this.language ? "zh" : "en" });
    };
    const restart = () => {
      const { lang, theme } = this.state;
      this.change({ ...BEGINNING, lang, theme });
    };
    const tongue = { onclick: speak, lang: this.language ? "en" : "zh-CN" };
    return h(
      "footer",
      {},
      this.$.took,
      h("span", {}, this.say("parameters", this.number(this.facts.parameters))),
      h("span", { class: "space" }),
      copied,
      button("link", link),
      button("restart", restart),
      h("button", { type: "button", class: "quiet", ...tongue }, this.say("language")),
      button("theme", turn),
    );
  }

  /** Everything that depends on the state, computed anew. */
  draw() {
    if (!this.model) return;
    const start = performance.now();
    const { state, facts } = this;
    const focus = /** @type {HTMLElement} */ (this.shadowRoot.activeElement)?.dataset.key;
    const shown = this.ask();
    const { columns } = shown;
    this.lookedAt = columns.find((c) => c.name === state.at) || columns[shown.asks];
    const without = this.ask({ on: false });
    this.answers = { shown, without };
    const virtual = facts.methods[state.method].virtual || 0;
    const ghosts = state.on ? 0 : virtual;
    const most = Math.max(columns.length + ghosts, virtual + without.columns.length);
    this._measure(most);
    this.$.controls.show();
    this.$.told.replaceChildren(...sentences(this).map((text) => h("span", {}, `${text} `)));
    const verdict = (answered) => this._verdict(answered);
    const first = { name: this.laneName, ghosts, offset: 0, whole: true };
    const second = { name: this.say("without"), ghosts: 0, offset: virtual, whole: false };
    const seen = heat(this, shown, ghosts);
    this.$.attention.replaceChildren(this._pickers(), ...seen.nodes);
    this.$.figure.style.setProperty("--columns", String(most));
    this.$.figure.replaceChildren(
      lane(this, shown, { ...first, verdict: verdict(shown) }),
      h("p", { class: "note hint" }, this.say("hint")),
      lane(this, without, { ...second, verdict: verdict(without) }),
      this.$.attention,
    );
    this._repaint = seen.paint;
    seen.paint();
    this._edge();
    this.$.next.replaceChildren(...nextTokens(this).filter(Boolean));
    const runs = state.on ? [shown, without] : [shown];
    const sum = (of) => runs.reduce((total, answered) => total + of(answered), 0);
    const took = sum((x) => x.milliseconds).toFixed(0);
    const [computed, tokens] = [sum((x) => x.computed), sum((x) => x.rows.length)];
    this.$.took.textContent = this.say("took", computed, tokens, took);
    if (focus) this._focus(focus);
    this.drawn = performance.now() - start;
  }

  _focus(key) {
    /** @type {HTMLElement | null} */
    const found = this.shadowRoot.querySelector(`[data-key="${key}"]`);
    if (found) found.focus({ preventScroll: true });
  }

  /** The answer, and whether it is the right one. */
  _verdict(answered) {
    const right = TASKS[this.state.task](this.state.word);
    const good = answered.answer === right;
    const shown = h("output", { class: "answer" }, answered.answer || this.say("nothing"));
    if (!this.state.word) return [shown]; // nothing was asked
    const judged = good ? `✓ ${this.say("right")}` : `✗ ${this.say("wrong", right)}`;
    const kind = good ? "good" : "bad";
    return [shown, h("span", { class: `verdict ${kind}` }, judged)];
  }

  _pickers() {
    const { num_hidden_layers: layers, num_attention_heads: heads } = this.facts.config;
    const pick = (word, values, chosen, act) => {
      const make = ([value, text]) => h("option", { value, selected: value === chosen }, text);
      const onchange = (event) => act(+event.target.value);
      const select = h("select", { onchange, "data-key": `pick ${word}` }, values.map(make));
      return h("label", {}, `${this.say(word)} `, select);
    };
    const numbered = (n) => Array.from({ length: n }, (_, i) => [i, String(i)]);
    return h(
      "div",
      { class: "pickers" },
      h("h2", {}, this.say("attention_of")),
      pick("layer", numbered(layers), this.state.layer, (layer) => this.change({ layer })),
      pick("head", [[-1, this.say("mean")], ...numbered(heads)], this.state.head, (head) => {
        this.change({ head });
      }),
    );
  }

  /** Columns as wide as the room allows. @param {number} columns */
  _measure(columns) {
    const room = (this.$.figure.clientWidth || 600) - 2;
    const narrow = room < 440;
    const gutter = narrow ? 22 : 84;
    const cell = Math.floor((room - gutter) / columns);
    this.sizes = { gutter, cell: Math.max(narrow ? 16 : 18, Math.min(46, cell)) };
    this.$.figure.classList.toggle("narrow", narrow);
    this.$.figure.classList.toggle("tight", this.sizes.cell < 20);
    for (const [name, x] of Object.entries(this.sizes)) {
      this.$.figure.style.setProperty(`--${name}`, `${x}px`);
    }
  }

  /** Fade the edge behind which more columns stand. */
  _edge() {
    const { scrollLeft, scrollWidth, clientWidth } = this.$.figure;
    this.$.figure.classList.toggle("more", scrollLeft + clientWidth < scrollWidth - 3);
  }

  _paint() {
    this._colours();
    if (this._repaint) this._repaint();
  }

  _colours() {
    const { root } = this.$;
    this.theme = this.state.theme || hostTheme();
    root.dataset.theme = this.theme;
    for (const name of MARKS) {
      const mark = this.facts.marks[name];
      this.paint[name] = colour(mark[this.theme]);
      root.style.setProperty(`--${name}`, this.paint[name]);
      root.style.setProperty(`--on-${name}`, colour(mark[`text_${this.theme}`]));
    }
    const style = getComputedStyle(root);
    for (const name of ["ink", "soft", "line", "rail", "accent", "mono"]) {
      this.paint[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }
}

if (!customElements.get(TAG)) customElements.define(TAG, PeftVizPlayground);
