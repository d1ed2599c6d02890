// <peft-viz-trace>: step through a recording of a PEFT model.
//
// A standard custom element without a framework. Its data is a payload (see viewer.py) in
// a <script type="application/json"> child, or set as the property `payload`.
import { colour, h, icon } from "./dom.js";
import { header, helpDialog, keyLine } from "./help.js";
import { fitFrame } from "./hosts.js";
import { actOf, isOurs } from "./keys.js";
import { copyText, hashOf, readHash } from "./links.js";
import { weightsOf } from "./measured.js";
import { indexOf } from "./numbering.js";
import { pace } from "./playback.js";
import { tellingRow } from "./sheet.js";
import { Recording } from "./steps.js";
import { textOf } from "./story.js";
import { enterTab, TABS, tabList, tabsOf } from "./tabs.js";
import { clamp, hollow, seen, wide } from "./text.js";
import { hostTheme } from "./theme.js";
import { say } from "./words.js";

const TAG = "peft-viz-trace";
const CSS = /*css*/ ""; // viewer.py puts viewer.css between the quotes
const SIDEWAYS_TOO = ".figure, .scroll, .attention, .code"; // what may be wider than its room
const LETTER = 7.3; // width of a letter in a cell, in pixels

export class PeftVizTrace extends HTMLElement {
  static observedAttributes = ["step", "lang", "view"];
  /** @type {Recording | null} */
  rec = null;
  /** @type {Record<string, any>} elements of the frame, and what is shown in them */
  $ = {};
  /** @type {0 | 1} */
  language = 0;
  tab = "story"; // the view that is open
  sceneIndex = 0; // the moment of the story
  row = 0; // of the batch
  firstRow = 0;
  speed = 1; // of playing
  playing = false;
  folded = false; // helpers are stepped over
  presenting = false;
  printing = false;
  /** @type {Record<string, number>} shares of the room that panes have */
  splits = { "split-code": 0.54, "split-model": 0.51 };
  /** @type {string | null} */
  largest = null; // the pane that has all the room
  /** @type {string | null} */
  chosenTheme = null; // the reader's, before the host's
  group = 0; // of layers with the same mask
  /** @type {number | null} */
  layer = null; // whose weights are shown
  headIndex = -1; // of them; -1: the mean of all
  allRows = false;
  tall = 0; // pixels
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
    fitFrame(this);
  }
  disconnectedCallback() {
    this.stop();
    this._themeWatch?.disconnect();
    this._sizes?.disconnect();
    this._media?.removeEventListener("change", this._theme);
    removeEventListener("hashchange", this._hash);
    for (const when of ["beforeprint", "afterprint"]) removeEventListener(when, this._print);
    this._themeWatch = null;
  }
  attributeChangedCallback(name, old, value) {
    if (old === value || !this.rec) return;
    if (name === "step" && value !== null && +value !== this._step) this.go(+value);
    if (name === "view" && value !== this.tab) this.openTab(value);
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
      if (!this.hasAttribute("full") || !this.rec || location.hash === this._written) return;
      this._written = location.hash;
      this._follow(readHash(location.hash));
      this._build();
    };
    addEventListener("hashchange", this._hash);
    this._print = (e) => {
      this.printing = e.type === "beforeprint"; // paper is white
      this._paint();
    };
    for (const when of ["beforeprint", "afterprint"]) addEventListener(when, this._print);
    // the large grid fits the room that there is
    this._sizes = new ResizeObserver(() => {
      this.tall = this.clientHeight;
      if (this.steps) this.reachable();
      const wide = this.$.panel?.clientWidth;
      if (this.tab !== "attention" || !wide || wide === this._wide) return;
      this._wide = wide;
      requestAnimationFrame(() => this.redraw());
    });
    this._sizes.observe(this);
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
      this.language = this.firstLanguage = /^zh/i.test(lang || "en") ? 1 : 0;
      const differs = (payload.differences || []).find((d) => d.row != null);
      this.row = this.firstRow = differs?.row ?? tellingRow(this.rec);
      const step = this.getAttribute("step");
      this._step = clamp(Math.trunc(+(step || 0)) || 0, 0, Math.max(0, this.steps - 1));
      this.sceneIndex = this._step ? this.rec.sceneAt(this._step) : 0;
      const first = payload.other ? "compare" : step == null ? "story" : "lines";
      const view = this.getAttribute("view") || first;
      this.tab = tabsOf(this).includes(view) ? view : tabsOf(this)[0];
      if (this.hasAttribute("full")) this._follow(readHash(location.hash));
      this._measure();
      this._build();
      if (this.hasAttribute("takes-focus")) this.$.root?.focus({ preventScroll: true });
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

  // ---------------------------------------- links: #moment=3, #step=84, in a file of its own
  /** @param {ReturnType<typeof readHash>} to */
  _follow(to) {
    const { rec } = this;
    if (to.lang != null) this.language = to.lang;
    if (to.theme) this.chosenTheme = to.theme;
    if (to.row != null) this.row = to.row;
    if (to.moment != null && rec.story.length) {
      this.sceneIndex = clamp(indexOf(this, to.moment), 0, rec.story.length - 1);
      this._step = rec.story[this.sceneIndex].k;
      this.tab = "story";
    }
    if (to.step != null) {
      this._step = clamp(to.step, 0, Math.max(0, this.steps - 1));
      this.sceneIndex = rec.sceneAt(this._step);
      this.tab = "lines";
    }
    if (to.view && tabsOf(this).includes(to.view)) this.tab = to.view;
  }
  // at once, but not more often than needed: writing an address takes longer than a step
  _link() {
    if (!this.hasAttribute("full") || this._linking) return;
    const write = () => {
      const hash = hashOf(this);
      if (hash === this._written) return false;
      this._written = hash;
      try {
        history.replaceState(null, "", hash);
      } catch {
        // a page without an address of its own, or too many steps in a short time
      }
      return true;
    };
    const later = () => {
      this._linking = write() ? setTimeout(later, 200) : 0;
    };
    later();
  }
  async copyLink() {
    const there = this.hasAttribute("full");
    const text = there ? location.href.replace(/#.*$/, "") + hashOf(this) : hashOf(this);
    this.tell(this.say((await copyText(text)) ? "copied_link" : "not_copied", text));
  }
  /** A short message that goes away. @param {string} text */
  tell(text) {
    this.$.toast.textContent = text;
    this.$.toast.hidden = false;
    clearTimeout(this._toast);
    this._toast = setTimeout(() => (this.$.toast.hidden = true), 3000);
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
    if (!this._letters) {
      const marks = Object.entries(this.rec.payload.marks || {});
      this._letters = Object.fromEntries(marks.map(([k, m]) => [m.code, k]));
    }
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
    $.toast = h("p", { class: "toast", role: "status", hidden: true });
    if (this.presenting) frame.class += " presenting";
    $.root = h("section", { ...frame, css: { "--longest": `${this.cell}px` } });
    if (rec.moments.length) {
      $.panel = h("div", { role: "tabpanel" });
      $.keyLine = h("footer", { class: "keyline" });
      $.root.append(header(this, tabList(this)), ...this._untold(), $.panel, $.keyLine);
    } else {
      $.root.append(header(this, null), h("p", { class: "note empty" }, this.say("no_calls")));
    }
    $.help = helpDialog(this);
    $.root.append($.live, $.toast, $.help);
    this._listen();
    const had = /** @type {HTMLElement | null} */ (this.shadowRoot.activeElement);
    this.shadowRoot.replaceChildren($.root);
    const same =
      had?.dataset?.lang && this.shadowRoot.querySelector(`[data-lang="${this.language}"]`);
    if (rec.moments.length) enterTab(this, this.tab);
    if (had) (same || $.root).focus({ preventScroll: true });
    this._paint();
    if (rec.moments.length) this._show();
  }
  // what Python could not find out about the recording, and why
  _untold() {
    const one = ([what, why]) => {
      return h("p", { class: "note untold", role: "alert" }, this.say(`untold_${what}`, why));
    };
    return Object.entries(this.rec.payload.untold || {}).map(one);
  }
  /** Open another view at the same moment. @param {string} name */
  openTab(name) {
    if (!this.rec || name === this.tab || !tabsOf(this).includes(name)) return;
    this.stop();
    const had = this.shadowRoot.activeElement;
    if (name === "story") this.sceneIndex = this.rec.sceneAt(this._step);
    this.tab = name;
    enterTab(this, name);
    this._show();
    this._link();
    if (had && !had.isConnected) this.$.root.focus({ preventScroll: true });
    const detail = { view: name };
    this.dispatchEvent(
      new CustomEvent("peft-viz-view", { bubbles: true, composed: true, detail }),
    );
  }
  _listen() {
    if (this._listening) return;
    this._listening = true;
    this.shadowRoot.addEventListener("keydown", (e) => this._key(e));
    const scrolled = ({ target }) => {
      if (target.matches?.(SIDEWAYS_TOO)) goesOn([target]);
    };
    this.shadowRoot.addEventListener("scroll", scrolled, true);
    this.shadowRoot.addEventListener("click", (e) => {
      const inside = (x) => x.matches?.("button,input,select,dialog,a");
      if (!e.composedPath().some(inside)) this.$.root.focus({ preventScroll: true });
    });
  }
  // the host's theme, and the marks' colours in it
  _paint() {
    const root = this.$.root;
    if (!root) return;
    const theme = this.printing ? "light" : this.chosenTheme || hostTheme();
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
    this._step = k;
    this.sceneIndex = this.rec.sceneAt(k);
    this._moved();
  }
  /** Go to a moment of the story. @param {number} i */
  goScene(i) {
    i = clamp(i, 0, this.rec.story.length - 1);
    if (i < 0 || i === this.sceneIndex) return;
    this.sceneIndex = i;
    this._step = this.rec.story[i].k;
    this._moved();
  }
  _moved() {
    const k = this._step;
    const had = this.shadowRoot.activeElement;
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
  /** The next thing of the open view: a moment, a step, a decoding step. @param {number} by */
  move(by) {
    const { rec } = this;
    if (this.tab === "story")
      return this.goScene(clamp(this.sceneIndex + by, 0, rec.story.length));
    if (this.tab === "attention" && Number.isFinite(by)) return this.nextGroup(by);
    if (["decoding", "attention", "compare"].includes(this.tab)) {
      const i = clamp(this.baseIndex() + by, 0, rec.bases.length - 1);
      return this.go(rec.bases[i].last);
    }
    if (this.tab === "lines" && this.folded && Number.isFinite(by)) {
      const k = rec.seek(this._step, by < 0 ? -1 : 1, (m) => !rec.inHelper(m));
      return k == null ? undefined : this.go(k);
    }
    return this.go(clamp(this._step + by, 0, this.steps - 1));
  }
  /** Number of the base call to show. */
  baseIndex() {
    return Math.max(0, this.rec.bases.filter((b) => b.first <= this._step).length - 1);
  }
  nextGroup(by) {
    const kept = weightsOf(this.rec.bases[this.baseIndex()]).map((w) => w.layer);
    if (kept.length) {
      const i = kept.indexOf(/** @type {number} */ (this.layer));
      this.layer = kept[(i + by + kept.length) % kept.length];
      return this.redraw();
    }
    const n = this.rec.bases[this.baseIndex()].attention.length;
    this.group = n ? (this.group + by + n) % n : 0;
    this.redraw();
  }
  nextRow(by) {
    const base = this.rec.base(this._step) || this.rec.bases[0];
    const n = (base && this.rec.sequence(base.id)?.rows.length) || 1;
    this.row = (this.row + by + n) % n;
    this.redraw();
    this._link();
  }
  /** Give the focus to what was drawn anew. @param {string} selector */
  refocus(selector) {
    const found = /** @type {any} */ (this.shadowRoot.querySelector(selector));
    found?.focus();
  }
  redraw() {
    this.$.shownBase = null;
    this._show();
  }
  /** The next step of the same call, or of one that called it. @param {number} by */
  stepOver(by) {
    const { call } = this.rec.moments[this._step];
    const outside = (m) => m.call === call || !this.rec.isInside(m.call, call);
    this._seek(by, outside);
  }
  /** To the line that called this function, when it is done. */
  stepOut() {
    const { call } = this.rec.moments[this._step];
    if (call.parent != null) this.go(call.last + 1);
  }
  foldHelpers() {
    this.folded = !this.folded;
    const m = this.rec.moments[this._step];
    if (this.folded && this.rec.inHelper(m)) this._seek(-1, (x) => !this.rec.inHelper(x));
    enterTab(this, this.tab);
    this._show();
    this.tell(this.say(this.folded ? "helpers_off" : "helpers_on"));
  }
  search() {
    this.openTab("overview");
    this.$.search?.focus();
  }
  present() {
    this.presenting = !this.presenting;
    this.$.root.classList.toggle("presenting", this.presenting);
    this.$.present?.setAttribute("aria-pressed", String(this.presenting));
    this.redraw();
  }
  /** Light, dark, or as the host: the reader's choice. */
  turnTheme() {
    this.chosenTheme = this.theme === "dark" ? "light" : "dark";
    this._paint();
    this._link();
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
    if (this._atEnd()) this.move(-Infinity);
    const next = () => (this._atEnd() ? this.stop() : this.move(1));
    this._timer = setInterval(next, pace(this.tab, this.speed));
    this._playing(true);
  }
  _atEnd() {
    const { rec } = this;
    if (this.tab === "story") return this.sceneIndex >= rec.story.length - 1;
    if (this.tab === "lines") return this._step >= this.steps - 1;
    return this._step >= rec.bases[rec.bases.length - 1].last;
  }
  stop() {
    clearInterval(this._timer);
    this._timer = null;
    this._playing(false);
  }
  _playing(on) {
    this.playing = on;
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
    const names = tabsOf(this);
    const act = names[+e.key - 1]
      ? () => this.openTab(names[+e.key - 1])
      : actOf(this.tab, e.key);
    if (!act || !isOurs(at, e.key)) return;
    if (e.key !== " ") this.stop();
    e.preventDefault();
    e.stopPropagation();
    act(this);
  }

  // ------------------------------------------------------------ showing one moment
  _show() {
    if (!this.steps) return;
    let words;
    if (this.$.keysOf !== this.tab) keyLine(this);
    this.$.keysOf = this.tab;
    try {
      words = TABS[this.tab].show(this);
    } catch (error) {
      const told = this.say("broken", error.message);
      this.$.panel.replaceChildren(h("p", { role: "alert", class: "note empty" }, told));
    }
    this.paintAll();
    this.reachable();
    const scene = this.rec.story[this.sceneIndex];
    if (this.tab === "story" && scene) words = textOf(this, scene);
    if (!this._timer) this.$.live.textContent = words || "";
  }
  drawModel() {
    this.$.redraw?.();
    this._show();
  }
  // what can be scrolled must be reachable by keyboard, and say at which sides it goes on
  reachable() {
    goesOn(/** @type {HTMLElement[]} */ ([...this.shadowRoot.querySelectorAll(SIDEWAYS_TOO)]));
  }
}

/** Mark the sides at which boxes go on. @param {HTMLElement[]} boxes */
function goesOn(boxes) {
  const found = boxes.map((el) => [el.scrollLeft, el.scrollWidth - el.clientWidth]);
  // all are measured before one is changed: else each is laid out anew
  boxes.forEach((el, i) => {
    const [left, most] = found[i];
    if (most > 0 && !el.hasAttribute("tabindex")) el.tabIndex = 0;
    el.toggleAttribute("data-moved", left > 1);
    el.toggleAttribute("data-more", most - left > 1);
  });
}

if (!customElements.get(TAG)) customElements.define(TAG, PeftVizTrace);
