// <peft-viz-trace>: step through a recording of a PEFT model.
//
// A standard custom element without a framework. Its data is a payload (see peft_viz/views/viewer.py) in
// a <script type="application/json"> child, or set as the property `payload`.
import { colour, h, icon } from "./dom.js";
import { header, helpDialog } from "./help.js";
import { modelPane, showModel } from "./model.js";
import { showPath, showSource, sourcePane } from "./source.js";
import { brief, showState, statePane } from "./state.js";
import { Recording, stepOfHash } from "./steps.js";
import { clamp, hollow, pythonText, seen, wide } from "./text.js";
import { hostTheme } from "./theme.js";
import { controls, showControls } from "./timeline.js";
import { say } from "./words.js";

const TAG = "peft-viz-trace";
const CSS = /*css*/ ""; // viewer.py puts viewer.css between the quotes
const LETTER = 7.3; // width of a letter in a cell, in pixels

export class PeftVizTrace extends HTMLElement {
  static observedAttributes = ["step", "lang"];
  /** @type {Recording | null} */
  rec = null;
  /** @type {Record<string, any>} elements of the frame, and what is shown in them */
  $ = {};
  /** @type {0 | 1} */
  language = 0;
  row = 0; // of the batch, whose attention is shown
  group = 0; // of layers with the same mask
  allRows = false;
  /** @type {Map<number, number>} first column drawn of a long sequence, by base call */
  window = new Map();
  /** @type {Set<() => boolean>} draw a canvas anew; false when it has left the page */
  painters = new Set();
  theme = "light";
  /** @type {Record<string, string>} colours of the theme */
  paint = {};
  cell = 34; // width of a cell in pixels
  fits = 4; // letters in it
  /** @type {Record<string, string> | null} letter of a mark -> its name */
  _letters = null;

  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({ mode: "open", delegatesFocus: true });
    if (!this._themeWatch) this._watchHost();
    if (!this.rec && !this._failed) this._read();
  }
  disconnectedCallback() {
    this.stop();
    this._themeWatch?.disconnect();
    this._media?.removeEventListener("change", this._theme);
    removeEventListener("hashchange", this._hash);
    this._themeWatch = null;
  }
  attributeChangedCallback(name, old, value) {
    if (old === value || !this.rec) return;
    if (name === "step" && value !== null && +value !== this._step) this.go(+value);
    if (name === "lang") this.speak(/^zh/i.test(value || "") ? 1 : 0);
  }
  get step() {
    return this._step;
  }
  set step(k) {
    this.go(k);
  }
  get steps() {
    return this.rec ? this.rec.moments.length : 0;
  }
  get payload() {
    return this.rec?.payload;
  }
  set payload(p) {
    this._open(p);
  }

  _watchHost() {
    this._theme = () => {
      this._paint();
      setTimeout(() => this._paint(), 250); // the host's own style sheets may come a moment later
    };
    this._media = matchMedia("(prefers-color-scheme: dark)");
    this._media.addEventListener("change", this._theme);
    this._themeWatch = new MutationObserver(this._theme);
    for (const el of [document.documentElement, document.body]) {
      if (el) this._themeWatch.observe(el, { attributes: true });
    }
    this._hash = () => {
      const k = this._linked();
      if (k != null) this.go(k);
    };
    addEventListener("hashchange", this._hash);
  }

  // the payload may still be on its way while the page is being parsed
  _read() {
    const holder = this.querySelector('script[type="application/json"]');
    try {
      this._open(JSON.parse(holder.textContent));
    } catch (error) {
      const again = () => {
        if (!this.rec && this.isConnected) this._read();
      };
      if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", again, { once: true });
      } else if (holder) this._broken(error);
    }
  }
  _open(payload) {
    try {
      this.stop();
      this.rec = new Recording(payload);
      this._failed = false;
      this._letters = null;
      if (!this.shadowRoot) this.attachShadow({ mode: "open", delegatesFocus: true });
      const lang = this.getAttribute("lang") || payload.lang || document.documentElement.lang;
      this.language = /^zh/i.test(lang || "en") ? 1 : 0;
      const asked = this._linked() ?? (Math.trunc(+this.getAttribute("step")) || 0);
      this._step = clamp(asked, 0, Math.max(0, this.steps - 1));
      this._measure();
      this._build();
      if (this.hasAttribute("autofocus")) this.$.root?.focus({ preventScroll: true });
    } catch (error) {
      this._broken(error);
    }
  }
  // say so, and leave what stands in the element readable
  _broken(error) {
    this._failed = true;
    const alert = h("p", { role: "alert" }, this.say("broken", error.message));
    this.shadowRoot.replaceChildren(alert, h("slot"));
  }
  // one width for all cells: four letters ("−100") or as many as the longest token has, up to seven
  _measure() {
    const texts = Object.values(this.rec.tokens || {}).slice(0, 5000);
    const longest = (n, t) => (hollow(t) ? n : Math.max(n, wide(seen(t, 7))));
    this.fits = Math.ceil(Math.min(7, texts.reduce(longest, 4)));
    this.cell = Math.round(this.fits * LETTER + 5);
  }

  // ---------------------------------------- links: #step=84, in a file of its own
  _linked() {
    return this.hasAttribute("full") ? stepOfHash(location.hash, this.steps) : null;
  }
  _link() {
    if (!this.hasAttribute("full")) return;
    try {
      history.replaceState(null, "", `#step=${this._step + 1}`);
    } catch {
      // a page without an address of its own, or too many steps in a short time
    }
  }

  // ------------------------------------------------------------ words, marks, headings
  say(word, ...values) {
    return say(word, this.language, ...values);
  }
  speak(language) {
    this.language = language;
    this._build();
  }
  mark(name) {
    return this.rec.payload.marks?.[name] || { en: name, zh: name, glyph: "" };
  }
  name(mark) {
    return this.mark(mark)[this.language ? "zh" : "en"];
  }
  roleOf(letter) {
    const marks = Object.entries(this.rec.payload.marks || {});
    this._letters ||= Object.fromEntries(marks.map(([k, m]) => [m.code, k]));
    return this._letters[letter] || "token";
  }
  // a token in full: 'text' id 5
  textOf(id) {
    if (id == null) return null;
    const text = this.rec.text(id);
    return `${text == null ? "" : `'${text}' `}id ${id}`;
  }
  // headings by rank, 2 the highest; where the viewer is the page, all stand one higher
  h(rank, ...kids) {
    return h(`h${rank - +this.hasAttribute("full")}`, { class: `h${rank}` }, kids);
  }

  // ---------------------------------------- building the frame, once per language
  _build() {
    const { rec } = this;
    /** @type {Record<string, any>} */
    const $ = {};
    this.$ = $;
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    this.shadowRoot.adoptedStyleSheets = [sheet];
    const lang = this.language ? "zh" : "en";
    const frame = {
      class: "root",
      tabindex: "0",
      role: "region",
      "aria-label": this.say("viewer"),
      lang,
    };
    $.live = h("p", { class: "hidden", "aria-live": "polite" });
    $.root = h("section", { ...frame, css: { "--cell": `${this.cell}px` } }, header(this));
    if (rec.moments.length) {
      const panes = h("div", { class: "panes" }, sourcePane(this), statePane(this));
      $.root.append(controls(this), panes, modelPane(this));
    } else $.root.append(h("p", { class: "note empty" }, this.say("no_calls")));
    $.help = helpDialog(this);
    $.root.append($.live, $.help);
    this._listen();
    const had = /** @type {HTMLElement | null} */ (this.shadowRoot.activeElement);
    this.painters.clear();
    this.shadowRoot.replaceChildren($.root);
    const same =
      had?.dataset?.lang && this.shadowRoot.querySelector(`[data-lang="${this.language}"]`);
    if (had) (same || $.root).focus({ preventScroll: true });
    this._paint();
    if (rec.moments.length) this._show();
  }
  _listen() {
    if (this._listening) return;
    this._listening = true;
    this.shadowRoot.addEventListener("keydown", (e) => this._key(e));
    this.shadowRoot.addEventListener("click", (e) => {
      const inside = (x) => x.matches?.("button,input,select,dialog,a");
      if (!e.composedPath().some(inside)) this.$.root.focus({ preventScroll: true });
    });
  }
  // the host's theme, and the marks' colours in it
  _paint() {
    const root = this.$.root;
    if (!root) return;
    const theme = hostTheme();
    this.theme = theme;
    root.dataset.theme = theme;
    for (const [name, m] of Object.entries(this.rec.payload.marks || {})) {
      this.paint[name] = colour(m[theme]);
      root.style.setProperty(`--${name}`, this.paint[name]);
      root.style.setProperty(`--on-${name}`, colour(m[`text_${theme}`]));
    }
    this.paint.paper = colour(getComputedStyle(root).getPropertyValue("--paper").trim());
    this.paintAll();
  }
  paintAll() {
    for (const draw of this.painters) if (!draw()) this.painters.delete(draw);
  }

  // ------------------------------------------------------------ moving
  go(k) {
    if (!this.rec) return;
    k = clamp(Math.trunc(+k) || 0, 0, this.steps - 1);
    if (k === this._step || k < 0) return;
    const had = this.shadowRoot.activeElement;
    this._step = k;
    this._show();
    if (had && !had.isConnected) this.$.root.focus({ preventScroll: true }); // it was drawn anew
    if (this.getAttribute("step") !== null) this.setAttribute("step", String(k));
    this._link();
    const m = this.rec.moments[k];
    const detail = {
      step: k,
      steps: this.steps,
      call: m.call.id,
      function: m.call.function,
      phase: m.phase,
      line: m.call.steps[m.step]?.line ?? null,
    };
    this.dispatchEvent(
      new CustomEvent("peft-viz-step", { bubbles: true, composed: true, detail }),
    );
  }
  _seek(by, test) {
    const k = this.rec.seek(this._step, by, test);
    if (k != null) this.go(k);
  }
  jumpCall(by) {
    const { moments } = this.rec;
    this._seek(by, (m) => moments[m.call.first] === m);
  }
  jumpBase(by) {
    const { moments } = this.rec;
    this._seek(by, (m) => m.call.kind === "base" && moments[m.call.first] === m);
  }
  jumpChange(by) {
    this._seek(by, (m) => this.rec.changesTensor(m));
  }
  jumpDecision(by) {
    this._seek(by, (m) => this.rec.decides(m));
  }
  // the next step of this call that ran the line, else the first
  jumpLine(line) {
    const { call } = this.rec.moments[this._step];
    const ran = (m) => m.call === call && m.phase !== "into" && call.steps[m.step]?.line === line;
    const k = this.rec.seek(this._step, 1, ran) ?? this.rec.seek(call.first - 1, 1, ran);
    if (k != null) this.go(k);
  }
  play() {
    if (this._timer) return this.stop();
    if (this._step >= this.steps - 1) this.go(0);
    const next = () => (this._step >= this.steps - 1 ? this.stop() : this.go(this._step + 1));
    this._timer = setInterval(next, 700);
    this._playing(true);
  }
  stop() {
    clearInterval(this._timer);
    this._timer = null;
    this._playing(false);
  }
  _playing(on) {
    const b = this.$.play;
    if (!b) return;
    b.replaceChildren(icon(on ? "pause" : "play"));
    b.setAttribute("aria-label", this.say(on ? "pause" : "play"));
  }
  help() {
    this.stop();
    if (this.$.help.open) this.$.help.close();
    else this.$.help.showModal();
  }
  _key(e) {
    if (e.altKey || e.ctrlKey || e.metaKey || this.$.help.open || !this.steps) return;
    const at = e.composedPath()[0];
    const is = (selector) => !!at.matches?.(selector);
    const acts = {
      "?": () => this.help(),
      n: () => this.jumpChange(1),
      N: () => this.jumpChange(-1),
      d: () => this.jumpDecision(1),
      D: () => this.jumpDecision(-1),
    };
    if (!is(".figure,.scroll")) {
      acts.ArrowRight = () => this.go(this._step + 1);
      acts.ArrowLeft = () => this.go(this._step - 1);
    }
    if (!is(".body")) {
      acts.ArrowDown = () => this.jumpCall(1);
      acts.ArrowUp = () => this.jumpCall(-1);
      acts.PageDown = () => this.jumpBase(1);
      acts.PageUp = () => this.jumpBase(-1);
      acts.Home = () => this.go(0);
      acts.End = () => this.go(this.steps - 1);
      if (!is("button")) acts[" "] = () => this.play();
    }
    if (!acts[e.key] || (is("input,select") && e.key !== "?")) return;
    if (e.key !== " ") this.stop();
    e.preventDefault();
    e.stopPropagation();
    acts[e.key]();
  }

  // ------------------------------------------------------------ showing one moment
  _show() {
    const { $ } = this;
    const k = this._step;
    const m = this.rec.moments[k];
    const where = showControls(this, m, k);
    showPath(this, m);
    const panes = [
      [$.code, () => showSource(this, m)],
      [$.state, () => showState(this, m, k)],
      [$.model, () => showModel(this, k)],
    ];
    for (const [pane, draw] of panes) {
      try {
        draw();
      } catch (error) {
        $.shownCall = $.shownBase = null; // the other panes still work
        const told = this.say("broken", error.message);
        pane.replaceChildren(h("p", { role: "alert", class: "note" }, told));
      }
    }
    this.paintAll();
    this._reachable();
    if (!this._timer) $.live.textContent = `${where}. ${this._inWords(m)}`;
  }
  drawModel() {
    this.$.redraw?.();
    this._show();
  }
  // what can be scrolled must be reachable by keyboard
  _reachable() {
    for (const el of this.shadowRoot.querySelectorAll(".figure, .scroll")) {
      if (el.scrollWidth > el.clientWidth) /** @type {HTMLElement} */ (el).tabIndex = 0;
    }
  }
  _inWords(m) {
    const step = this.rec.settled(m);
    if (!step) return "";
    const told = step.changes.slice(0, 6).map((c) => {
      const before = c.before == null ? "" : `${brief(this, c.before)} → `;
      return `${c.name}: ${before}${c.value == null ? this.say("deleted") : brief(this, c.value)}`;
    });
    if (step.branch != null) told.unshift(`${this.say("condition")} ${pythonText(step.branch)}`);
    return told.join("; ");
  }
}

if (!customElements.get(TAG)) customElements.define(TAG, PeftVizTrace);
