// <peft-viz-trace>: step through a recording of a PEFT model.
//
// A standard custom element, no framework, no build step. Its data is a payload (see peft_viz/viewer.py) in a
// <script type="application/json"> child, or set as the property `payload`. Everything that comes from the payload
// reaches the page as text (textContent) or as a checked number or colour, never as markup.
(() => {
"use strict";
const TAG = "peft-viz-trace", CSS = /*css*/"";   // viewer.py puts viewer.css between the quotes
if (customElements.get(TAG)) return;             // several outputs of a notebook each bring this script

// ---------------------------------------------------------------- words: every text of the interface, [English, Chinese]
const WORDS = {
  viewer: ["PEFT trace viewer", "PEFT 记录查看器"], on: ["on", "·"], plain: ["No adapter", "无适配器"],
  virtual_n: ["{0} virtual tokens", "{0} 个虚拟词元"], virtual_1: ["1 virtual token", "1 个虚拟词元"],
  first: ["First step", "第一步"], prev: ["Previous step", "上一步"], next: ["Next step", "下一步"], last: ["Last step", "最后一步"],
  play: ["Play", "播放"], pause: ["Pause", "暂停"], help: ["Keys and marks", "按键与图例"], close: ["Close", "关闭"],
  language: ["Language", "语言"], step_of: ["step {0} of {1}", "第 {0} / {1} 步"], timeline: ["Steps in the order they ran", "按执行顺序排列的步骤"],
  base_n: ["base call {0} of {1}", "基座调用 {0} / {1}"], base_slider: ["Calls of the base model", "基座模型的各次调用"],
  prev_base: ["Previous call of the base model", "上一次基座调用"], next_base: ["Next call of the base model", "下一次基座调用"],
  forward: ["forward pass", "前向传播"], prefill: ["prefill", "预填充"], decode: ["decoding step {0}", "解码第 {0} 步"],
  source: ["Source", "源代码"], line: ["line {0}", "第 {0} 行"], no_source: ["The source of this function was not found when it was recorded.", "录制时没有找到此函数的源代码。"],
  call_path: ["Calls", "调用"], variables: ["Variables", "变量"], others: ["Unchanged", "未变"],
  after_line: ["Changed by this line", "这一行改变的"], nothing: ["This line changed no variable.", "这一行没有改变变量。"], called_with: ["Called with", "调用参数"],
  calling: ["This line is calling", "这一行正在调用"], condition: ["The condition is", "条件为"], returns: ["returns", "返回"], raises: ["raises", "抛出"],
  isnew: ["new", "新"], rebound: ["rebound", "重新赋值"], inplace: ["in-place", "原地修改"], deleted: ["deleted", "已删除"],
  alias: ["= shares storage with {0}", "= 与 {0} 共享存储"], before: ["before", "之前"], after: ["after", "之后"],
  empty: ["empty", "空"], more_rows: ["{0} more rows", "另有 {0} 行"], cut: ["only the first values were recorded", "只记录了开头的值"],
  attention_mask: ["attention mask", "注意力掩码"], labels: ["labels", "标签"], embeddings: ["embeddings", "嵌入"], cache: ["cache", "缓存"],
  positions: ["positions", "位置"], type_mask: ["type mask", "类型掩码"], ids: ["token ids", "词元 ID"], logits: ["logits", "logits"], loss: ["loss", "损失"],
  model: ["Base model", "基座模型"], reached: ["Reached the base model", "传入基座模型"], came_back: ["Came back", "返回"],
  paused: ["The recorder does not look inside the base model: this is exactly what reached it, and what it gave back.", "录制器不进入基座模型：这里是实际传入它的内容，以及它返回的内容。"],
  upcoming: ["not called yet: comes at step {0}", "尚未调用：将在第 {0} 步"], recent: ["called at step {0}", "在第 {0} 步被调用"], now: ["this step", "当前步"],
  no_base: ["The base model was not called here.", "这里没有调用基座模型。"], go: ["Go to this call", "跳到这次调用"],
  sequence: ["Sequence", "序列"], row: ["row {0}", "第 {0} 行"], batch_row: ["row", "批次行"], layers: ["Layers", "层"], layers_all: ["all {0} layers", "全部 {0} 层"],
  token: ["token", "词元"], mask: ["mask", "掩码"], label: ["label", "标签"], position: ["position", "位置"], id: ["id", "ID"],
  in_cache: ["in the cache", "在缓存中"], this_call: ["this call's inputs", "本次输入"],
  attention: ["Attention as measured", "注意力（实测）"], keys: ["key", "键"], queries: ["query", "查询"],
  may: ["query {0} may attend to key {1}", "查询 {0} 可以看到键 {1}"], may_not: ["query {0} may not attend to key {1}", "查询 {0} 看不到键 {1}"],
  at: ["{0} at {1}", "位置 {1} 的 {0}"], pairs: ["{2} of {3} query–key pairs may attend ({0} × {1})", "{3} 个查询–键对（{0} × {1}）中 {2} 个可见"],
  no_attention: ["The attention layers of this call got no mask that could be read.", "这次调用的注意力层没有可读的掩码。"],
  cache_line: ["{0} → {1} tokens", "{0} → {1} 个词元"], of_max: ["of {0}", "共 {0}"], of_them: ["{0} virtual", "其中虚拟 {0}"], added: ["+{0} in this call", "本次 +{0}"],
  tokens_n: ["{0} tokens", "{0} 个词元"], nothing_back: ["nothing: the call raised", "无：调用抛出异常"],
  key_step: ["previous / next step", "上一步 / 下一步"], key_call: ["previous / next call", "上一个 / 下一个调用"], key_base: ["previous / next call of the base model (decoding step)", "上一次 / 下一次基座调用（解码步）"],
  key_ends: ["first / last step", "第一步 / 最后一步"], key_play: ["play / pause", "播放 / 暂停"], key_help: ["this help", "本帮助"], keys_focus: ["Keys work while the viewer has the focus. Click a line of source to go to the step that ran it.", "查看器获得焦点时按键有效。点击一行源代码可跳到执行它的步骤。"],
  marks: ["Marks", "图例"], keys_title: ["Keys", "按键"], changed_cell: ["changed or new", "有变化或新增"], ran: ["line that ran", "已执行的行"],
  broken: ["This recording could not be shown: {0}", "无法显示这份记录：{0}"], no_calls: ["Nothing was recorded: no watched function was called inside record().", "没有记录到内容：record() 中没有调用被观察的函数。"],
  go_error: ["Go to the line that raised", "跳到抛出异常的行"], base_model: ["base model", "基座模型"],
};
const METHODS = {PROMPT_TUNING: ["Prompt tuning", "提示微调"], PREFIX_TUNING: ["Prefix tuning", "前缀微调"], P_TUNING: ["P-tuning", "P-tuning"],
  MULTITASK_PROMPT_TUNING: ["Multitask prompt tuning", "多任务提示微调"], CPT: ["CPT", "CPT"], LORA: ["LoRA", "LoRA"], ADALORA: ["AdaLoRA", "AdaLoRA"], IA3: ["IA³", "IA³"], POLY: ["Poly", "Poly"]};
const fill = (text, values) => text.replace(/\{(\d)\}/g, (_, i) => values[i]);

// ---------------------------------------------------------------- small tools
const NS = "http://www.w3.org/2000/svg";
const set = (el, props) => {
  for (const [k, v] of Object.entries(props || {})) {
    if (v == null || v === false) continue;
    if (k.startsWith("on")) el.addEventListener(k.slice(2), v);
    else if (k === "css") for (const [p, x] of Object.entries(v)) el.style.setProperty(p, x);
    else el.setAttribute(k, v === true ? "" : v);
  }
  return el;
};
const h = (tag, props, ...kids) => { const el = set(document.createElement(tag), props); el.append(...kids.flat(9).filter(k => k != null && k !== false)); return el; };
const s = (tag, props, ...kids) => { const el = set(document.createElementNS(NS, tag), props); el.append(...kids.flat(9).filter(k => k != null)); return el; };
const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x));
const range = n => Array.from({length: n}, (_, i) => i);
const colour = c => (typeof c === "string" && /^#[0-9a-fA-F]{3,8}$/.test(c) ? c : "gray");
const SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "⏎"};
const seen = (text, limit = 12) => {   // a token's text as a figure can show it
  if (text === "") return "∅";
  const t = text.replace(/[ \n\t\r]/g, c => SIGNS[c]).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069]/g, "�");
  return Array.from(t).length > limit ? Array.from(t).slice(0, limit - 1).join("") + "…" : t;
};
const hollow = text => text != null && /^[<[].*[\]>]$/.test(text);   // "<pad>", "[PAD]": a glyph says it shorter
const unpack = data => {               // numbers, run-length encoded or not
  if (!data || Array.isArray(data)) return data || null;
  const out = [];
  for (let i = 0; i < data.runs.length; i += 2) for (let n = 0; n < data.runs[i + 1]; n++) out.push(data.runs[i]);
  return out;
};
const short = name => name.split(".").pop(), owner = call => call.function.slice(0, -short(call.function).length);
const python = v => v === null ? "None" : v === true ? "True" : v === false ? "False" : typeof v === "string" ? `'${v}'` : String(v);

// ---------------------------------------------------------------- colouring Python, just enough to read
const KEYWORDS = new Set(("and as assert async await break class continue def del elif else except finally for from global if import in is " +
  "lambda nonlocal not or pass raise return try while with yield match case").split(" "));
const CONSTANTS = new Set(["None", "True", "False", "self", "cls"]);
const TOKEN = /(#[^\n]*)|([rbfuRBFU]{0,2}(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))|(\b\d[\w.]*)|(@[\w.]+)|([A-Za-z_]\w*)|\n|[^\S\n]+|./g;
function colourLines(text) {           // text -> per line, a list of [class, piece]
  const lines = [[]];
  let def = false;
  for (const m of text.matchAll(TOKEN)) {
    const word = m[5];
    const cls = m[1] != null ? "c" : m[2] != null ? "s" : m[3] != null ? "n" : m[4] != null ? "d"
      : word == null ? "" : KEYWORDS.has(word) ? "k" : CONSTANTS.has(word) ? "n" : def ? "f" : "";
    if (word != null) def = word === "def" || word === "class";
    m[0].split("\n").forEach((piece, i) => { if (i) lines.push([]); if (piece) lines[lines.length - 1].push([cls, piece]); });
  }
  return lines;
}
const dedent = text => {
  const margin = Math.min(...text.split("\n").filter(l => l.trim()).map(l => l.length - l.trimStart().length));
  return Number.isFinite(margin) ? text.split("\n").map(l => l.slice(margin)).join("\n") : text;
};

// ---------------------------------------------------------------- the recording as a line of moments
// One moment per line that ran. A line that calls something watched is two: on the way "into" the calls, and when it is done.
// phase: "enter" the function, "line", "into" the calls of a line, "leave" (the last line: returned or raised), "whole" (not stepped into)
class Story {
  constructor(payload) {
    const t = payload.trace;
    Object.assign(this, {payload, about: t.about || {}, tokens: t.tokens, values: t.values, sources: t.sources, calls: t.calls, moments: [], data: new Map()});
    this.inner = this.calls.map(() => []);
    this.calls.forEach((c, i) => { c.id = i; if (c.parent != null) this.inner[c.parent].push(i); });
    this.calls.forEach(c => { if (c.parent == null) this._walk(c, 0); });
    this.bases = this.calls.filter(c => c.kind === "base");
    this.layouts = new Map((payload.layout?.sequences || []).map(l => [l.call, l]));
    this.caches = new Map((payload.layout?.caches || []).map(c => [c.call, c]));
  }
  _walk(c, depth) {
    const push = (phase, step) => this.moments.push({call: c, step, phase});
    const kids = this.inner[c.id], placed = new Set(c.steps.flatMap(x => x.calls)), last = c.steps.length - 1;
    c.depth = depth; c.first = this.moments.length;
    const down = ids => ids.forEach(i => this._walk(this.calls[i], depth + 1));
    const loose = kids.filter(i => !placed.has(i));
    if (!c.steps.length && !kids.length) push("whole", -1);
    else {
      push("enter", -1);
      down(loose);
      c.steps.forEach((step, i) => {
        if (step.calls.length) { push("into", i); down(step.calls); }
        push(i === last ? "leave" : "line", i);
      });
      if (!c.steps.length) push("leave", -1);
    }
    c.last = this.moments.length - 1;
  }
  value(i) { return i == null ? null : this.values[i]; }
  numbers(i) { if (!this.data.has(i)) this.data.set(i, unpack(this.values[i].data)); return this.data.get(i); }
  whole(i) { return !this.values[i].truncated && this.numbers(i) != null; }
  text(id) { const t = this.tokens?.[id]; return t == null ? null : t; }
  root(c) { while (c.parent != null) c = this.calls[c.parent]; return c; }
  // the variables at a moment: name -> {value, change}; entries of dicts stand under their own names
  variables(m) {
    const vars = new Map();
    const put = (name, index, change) => {
      if (!name.includes("[")) for (const k of [...vars.keys()]) if (k.startsWith(name + "[")) vars.delete(k);
      vars.set(name, {index, change});
      const v = this.value(index);
      if (v.kind === "mapping" && !name.includes("[")) for (const [k, i] of Object.entries(v.items)) vars.set(`${name}['${k}']`, {index: i, change: change && {...change, before: null, aliases: [], part: true}});
    };
    for (const [name, i] of Object.entries(m.call.args)) put(name, i, null);
    const done = m.phase === "into" ? m.step - 1 : m.step;
    for (let i = 0; i <= done; i++) for (const ch of m.call.steps[i].changes) {
      const now = i === m.step ? ch : null;
      if (ch.value != null) put(ch.name, ch.value, now);
      else if (now) vars.set(ch.name, {index: ch.before, change: ch});
      else vars.delete(ch.name);
    }
    return vars;
  }
  // lines that ran so far in this call, the conditions decided, the lines left out by them
  path(m) {
    const ran = new Map(), decided = new Map(), off = new Set(), src = this.sources[m.call.source];
    const upto = m.phase === "into" ? m.step - 1 : m.step;
    m.call.steps.slice(0, m.step + 1).forEach(x => ran.set(x.line, (ran.get(x.line) || 0) + 1));
    m.call.steps.slice(0, upto + 1).forEach(x => { if (x.branch != null) decided.set(x.line, x.branch); });
    for (const b of src.branches) {
      if (!decided.has(b.line)) continue;
      const span = decided.get(b.line) ? b.orelse && [b.body[1] + 1, b.orelse[1]] : b.body[0] > b.end && b.body;
      if (span) for (let l = span[0]; l <= span[1]; l++) if (!ran.has(l)) off.add(l);
    }
    return {ran, decided, off};
  }
  // the base call to draw at a moment: this one, else the last before, else the first to come, of the same outer call
  base(k) {
    const root = this.root(this.moments[k].call), mine = this.bases.filter(b => this.root(b) === root);
    const before = mine.filter(b => b.first <= k);
    return before.length ? before[before.length - 1] : mine[0] || null;
  }
  nextBase(k) {                        // whose key axis the variables of this moment are about to become
    const root = this.root(this.moments[k].call), mine = this.bases.filter(b => this.root(b) === root);
    return mine.find(b => b.last >= k) || mine[mine.length - 1] || null;
  }
  // what stands at each column of a tensor, per row: letters of the marks; null when unknown
  roles(v, name, base) {
    const seq = base && this.layouts.get(base.id), virtual = this.about.num_virtual_tokens || 0;
    if (!v || v.kind !== "tensor" || v.shape.length < 2) return null;
    const [rows, n] = v.shape;
    if (virtual && n === virtual && /prefix|prompt/.test(name)) return range(rows).map(() => "v".repeat(n));
    if (!seq || !seq.rows.length) return null;
    const total = seq.rows[0].roles.length;
    const from = n === total ? 0 : n === total - seq.query_start ? seq.query_start : n === total - virtual && seq.rows[0].roles.startsWith("v") ? virtual : -1;
    if (from < 0 || (rows !== seq.rows.length && rows !== 1)) return null;
    return range(rows).map(r => seq.rows[r].roles.slice(from));
  }
}

// ---------------------------------------------------------------- which theme does the host show?
function hostTheme() {
  const root = document.documentElement, body = document.body || root;
  const jp = body.dataset.jpThemeLight;
  if (jp) return jp === "false" ? "dark" : "light";
  for (const el of [body, root]) {
    const kind = el.dataset.vscodeThemeKind || "";
    if (/dark|high-contrast(?!-light)/.test(kind) || el.matches(".vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light)")) return "dark";
    if (kind || el.matches(".vscode-light, .vscode-high-contrast-light")) return "light";
    for (const name of ["data-bs-theme", "data-theme", "data-color-scheme", "theme"]) {
      const value = el.getAttribute(name);
      if (value === "dark" || value === "light") return value;
    }
    if (el.matches(".dark, .quarto-dark, .theme-dark, .dark-mode")) return "dark";
    if (el.matches(".light, .quarto-light, .theme-light, .light-mode")) return "light";
  }
  for (const el of [body, root]) {                 // no word of it: is the page's paper dark?
    const [r, g, b, a = 1] = (getComputedStyle(el).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    if (a > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 110 ? "dark" : "light";
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

const ICONS = {first: "M4 3v10M13 3 6 8l7 5z", prev: "M11 3 4 8l7 5z", next: "M5 3l7 5-7 5z", last: "M12 3v10M3 3l7 5-7 5z", play: "M4 2.5 13.5 8 4 13.5z", pause: "M4.5 3v10M11.5 3v10", up: "M10 3 5 8l5 5", down: "M6 3l5 5-5 5"};
const icon = name => s("svg", {viewBox: "0 0 16 16", "aria-hidden": "true", class: `icon ${name}`}, s("path", {d: ICONS[name]}));

// ---------------------------------------------------------------- the element
class PeftVizTrace extends HTMLElement {
  static observedAttributes = ["step", "lang"];

  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({mode: "open", delegatesFocus: true});
    if (!this._themeWatch) {
      this._theme = () => { this._paint(); setTimeout(() => this._paint(), 250); };   // the host's own style sheets may come a moment later
      this._media = matchMedia("(prefers-color-scheme: dark)");
      this._media.addEventListener("change", this._theme);
      this._themeWatch = new MutationObserver(this._theme);
      for (const el of [document.documentElement, document.body]) if (el) this._themeWatch.observe(el, {attributes: true});
    }
    if (!this.story && !this._failed) this._read();
  }
  disconnectedCallback() {
    this._stop();
    this._themeWatch?.disconnect();
    this._media?.removeEventListener("change", this._theme);
    this._themeWatch = null;
  }
  attributeChangedCallback(name, old, value) {
    if (old === value || !this.story) return;
    if (name === "step" && value !== null && +value !== this._step) this.go(+value);
    if (name === "lang") { this._lang = /^zh/i.test(value || "") ? 1 : 0; this._build(); }
  }
  get step() { return this._step; }
  set step(k) { this.go(k); }
  get steps() { return this.story ? this.story.moments.length : 0; }
  get payload() { return this.story?.payload; }
  set payload(p) { this._open(p); }

  // the payload may still be on its way while the page is being parsed
  _read() {
    const holder = this.querySelector('script[type="application/json"]');
    try { this._open(JSON.parse(holder.textContent)); }
    catch (error) {
      if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => { if (!this.story && this.isConnected) this._read(); }, {once: true});
      else if (holder) this._broken(error);
    }
  }
  _open(payload) {
    try {
      this._stop();
      this.story = new Story(payload);
      this._failed = false;
      if (!this.shadowRoot) this.attachShadow({mode: "open", delegatesFocus: true});
      const lang = this.getAttribute("lang") || payload.lang || document.documentElement.lang || "en";
      this._lang = /^zh/i.test(lang) ? 1 : 0;
      this._step = clamp(Math.trunc(+this.getAttribute("step")) || 0, 0, Math.max(0, this.steps - 1));
      this._row = 0;
      this._build();
      if (this.hasAttribute("autofocus")) this.$.root?.focus({preventScroll: true});
    } catch (error) { this._broken(error); }
  }
  _broken(error) {   // say so, and leave what stands in the element readable
    this._failed = true;
    this._lang ??= 0;
    this.shadowRoot.replaceChildren(h("p", {role: "alert"}, this._("broken", error.message)), h("slot"));
  }
  _(word, ...values) { return fill((WORDS[word] || [word, word])[this._lang], values); }

  // ------------------------------------------------------------ building the frame (once per language)
  _build() {
    const {story} = this, $ = this.$ = {};
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS);
    this.shadowRoot.adoptedStyleSheets = [sheet];
    $.live = h("p", {class: "hidden", "aria-live": "polite"});
    $.root = h("section", {class: "root", tabindex: "0", role: "region", "aria-label": this._("viewer"), lang: this._lang ? "zh" : "en"});
    $.root.append(this._header());
    if (story.moments.length) $.root.append(this._controls(), h("div", {class: "panes"}, this._sourcePane(), this._statePane()), this._modelPane());
    else $.root.append(h("p", {class: "note empty"}, this._("no_calls")));
    $.root.append($.live, $.help = this._helpDialog());
    if (!this._listening) {
      this._listening = true;
      this.shadowRoot.addEventListener("keydown", e => this._key(e));
      this.shadowRoot.addEventListener("click", e => { if (!e.composedPath().some(x => x.matches?.("button,input,select,dialog,a"))) this.$.root.focus({preventScroll: true}); });
    }
    const had = this.shadowRoot.activeElement;
    this.shadowRoot.replaceChildren($.root);
    if (had) (had.dataset?.lang ? this.shadowRoot.querySelector(`[data-lang="${this._lang}"]`) : $.root).focus({preventScroll: true});
    this._shownCall = this._shownBase = null;
    this._paint();
    if (story.moments.length) this._show();
  }
  _paint() {   // the host's theme, and the marks' colours in it
    const root = this.$?.root;
    if (!root) return;
    const theme = hostTheme();
    root.dataset.theme = theme;
    for (const [name, m] of Object.entries(this.story.payload.marks || {})) {
      root.style.setProperty(`--${name}`, colour(m[theme]));
      root.style.setProperty(`--on-${name}`, colour(m[`text_${theme}`]));
    }
  }
  // headings by rank, 2 the highest; where the viewer is the page, all stand one higher
  _h(rank, ...kids) { return h(`h${rank - this.hasAttribute("full")}`, {class: `h${rank}`}, kids); }
  _mark(name) { return this.story.payload.marks?.[name] || {en: name, zh: name, glyph: ""}; }
  _role(letter) {
    this._letters ||= Object.fromEntries(Object.entries(this.story.payload.marks || {}).map(([k, m]) => [m.code, k]));
    return this._letters[letter] || "token";
  }
  _name(mark) { return this._mark(mark)[this._lang ? "zh" : "en"]; }

  _header() {
    const a = this.story.about, n = a.num_virtual_tokens;
    const method = a.peft_type ? (METHODS[a.peft_type] || [a.peft_type, a.peft_type])[this._lang] : this._("plain");
    const facts = [`${a.implementation} ${a.implementation_version}`, a.peft_type, n ? this._(n === 1 ? "virtual_1" : "virtual_n", n) : null, `transformers ${a.transformers}`, `torch ${a.torch}`];
    const languages = ["EN", "中文"].map((label, i) => h("button", {type: "button", lang: i ? "zh" : "en", "data-lang": i, "aria-pressed": String(i === this._lang), onclick: () => { this._lang = i; this._build(); }}, label));
    return h("header", {},
      h("div", {class: "what"}, this._h(2, method, " ", h("span", {class: "soft"}, this._("on")), " ", a.model_class || ""), h("p", {class: "facts"}, [...new Set(facts.filter(Boolean))].map(f => h("span", {}, f)))),
      h("div", {class: "group", role: "group", "aria-label": this._("language")}, languages),
      h("button", {type: "button", class: "round", "aria-label": this._("help"), title: `${this._("help")} (?)`, onclick: () => this._help()}, "?"));
  }

  _controls() {
    const {story, $} = this, N = story.moments.length;
    const button = (name, act, key) => h("button", {type: "button", class: "tool", "aria-label": this._(name), title: `${this._(name)}${key ? ` (${key})` : ""}`, onclick: act}, icon(name));
    const tools = h("div", {class: "tools", role: "group"}, $.first = button("first", () => this.go(0), "Home"), $.prev = button("prev", () => this.go(this._step - 1), "←"), $.play = button("play", () => this._play(), "Space"),
      $.next = button("next", () => this.go(this._step + 1), "→"), $.last = button("last", () => this.go(N - 1), "End"));
    $.count = h("output", {class: "count"});
    const bar = h("div", {class: "bar"}, tools, $.count);
    const raised = story.calls.filter(c => c.raised).sort((a, b) => a.last - b.last)[0];
    if (raised) bar.append(h("button", {type: "button", class: "alarm", title: this._("go_error"), onclick: () => this.go(raised.last)}, `✗ ${raised.raised.type}`));
    if (story.bases.length > 1) bar.append(this._baseControl());
    return h("div", {class: "controls"}, bar, this._timeline());
  }
  _baseControl() {
    const {story, $} = this;
    $.base = h("input", {type: "range", min: 0, max: story.bases.length - 1, "aria-label": this._("base_slider"), oninput: () => this.go(story.bases[+$.base.value].first)});
    $.baseText = h("span", {class: "count"});
    const side = (name, by, pic, key) => h("button", {type: "button", class: "tool", "aria-label": this._(name), title: `${this._(name)} (${key})`, onclick: () => this._jumpBase(by)}, icon(pic));
    return h("div", {class: "bases"}, side("prev_base", -1, "up", "PageUp"), $.base, side("next_base", 1, "down", "PageDown"), $.baseText);
  }
  // the calls as bars over the axis of moments, one inside the other: a scrubber that shows where it goes
  _timeline() {
    const {story, $} = this, weight = story.moments.map(m => m.call.kind === "base" ? 4 : 1);
    this._x = [0];
    weight.forEach((w, i) => this._x.push(this._x[i] + w));
    const total = this._x[this._x.length - 1], pct = k => `${100 * this._x[k] / total}%`;
    const depth = 1 + Math.max(...story.calls.map(c => c.depth ?? 0));
    const bars = story.calls.filter(c => c.first != null).map(c => h("i", {class: `call ${c.kind}${c.raised ? " raised" : ""}`, title: c.function,
      css: {left: pct(c.first), width: `${100 * (this._x[c.last + 1] - this._x[c.first]) / total}%`, top: `${c.depth * 15}px`}},
      (this._x[c.last + 1] - this._x[c.first]) / total > 0.035 ? h("b", {}, c.kind === "base" ? this._("base_model") : short(c.function)) : null));
    $.head = h("i", {class: "head"});
    $.future = h("i", {class: "future"});
    $.line = h("div", {class: "timeline", role: "slider", tabindex: "0", "aria-label": this._("timeline"), "aria-valuemin": 1, "aria-valuemax": story.moments.length, "aria-orientation": "horizontal", css: {height: `${depth * 15 + 1}px`}}, bars, $.future, $.head);
    const to = e => {
      const box = $.line.getBoundingClientRect(), at = clamp((e.clientX - box.left) / box.width, 0, 0.99999) * total;
      this.go(this._x.findIndex(x => x > at) - 1);
    };
    $.line.addEventListener("pointerdown", e => { if (e.button) return; $.line.setPointerCapture(e.pointerId); this._stop(); to(e); });
    $.line.addEventListener("pointermove", e => { if ($.line.hasPointerCapture(e.pointerId)) to(e); });
    return $.line;
  }

  _sourcePane() {
    const {$} = this;
    $.code = h("div", {class: "body code", tabindex: "0", role: "region", "aria-label": this._("source")});
    $.path = h("nav", {class: "path", "aria-label": this._("call_path")});
    $.file = h("span", {class: "file"});
    $.code.addEventListener("click", e => { const row = e.target.closest?.("[data-line]"); if (row) this._jumpLine(+row.dataset.line); });
    return h("div", {class: "pane source"}, h("div", {class: "title code-title"}, $.path, $.file), $.code);
  }
  _statePane() {
    const {$} = this;
    $.state = h("div", {class: "body state", tabindex: "0", role: "region", "aria-label": this._("variables")});
    $.stateTitle = this._h(3);
    return h("div", {class: "pane"}, h("div", {class: "title"}, $.stateTitle), $.state);
  }
  _modelPane() {
    const {$} = this;
    $.modelTitle = h("div", {class: "title"});
    $.model = h("div", {class: "body model", tabindex: "0", role: "region", "aria-label": this._("model")});
    return $.modelBox = h("div", {class: "pane base-model"}, $.modelTitle, $.model);
  }

  // ------------------------------------------------------------ moving
  go(k) {
    if (!this.story) return;
    k = clamp(Math.trunc(+k) || 0, 0, this.steps - 1);
    if (k === this._step || k < 0) return;
    const had = this.shadowRoot.activeElement;
    this._step = k;
    this._show();
    if (had && !had.isConnected) this.$.root.focus({preventScroll: true});   // it was drawn anew
    if (this.getAttribute("step") !== null) this.setAttribute("step", k);
    const m = this.story.moments[k];
    this.dispatchEvent(new CustomEvent("peft-viz-step", {bubbles: true, composed: true, detail: {step: k, steps: this.steps, call: m.call.id, function: m.call.function, phase: m.phase, line: m.call.steps[m.step]?.line ?? null}}));
  }
  _jumpCall(by) {
    const starts = this.story.calls.map(c => c.first).filter(x => x != null).sort((a, b) => a - b), here = this._step;
    const to = by > 0 ? starts.find(x => x > here) : starts.filter(x => x < here).pop();
    if (to != null) this.go(to);
  }
  _jumpBase(by) {
    const starts = this.story.bases.map(c => c.first), here = this._step;
    const to = by > 0 ? starts.find(x => x > here) : starts.filter(x => x < here).pop();
    if (to != null) this.go(to);
  }
  _jumpLine(line) {   // the next step of this call that ran the line, else the first
    const {call} = this.story.moments[this._step], hits = range(call.last - call.first + 1).map(i => call.first + i)
      .filter(k => { const m = this.story.moments[k]; return m.call === call && m.phase !== "into" && call.steps[m.step]?.line === line; });
    const to = hits.find(k => k > this._step) ?? hits[0];
    if (to != null) this.go(to);
  }
  _play() {
    if (this._timer) return this._stop();
    if (this._step >= this.steps - 1) this.go(0);
    this._timer = setInterval(() => { if (this._step >= this.steps - 1) this._stop(); else this.go(this._step + 1); }, 700);
    this._playing(true);
  }
  _stop() { clearInterval(this._timer); this._timer = null; this._playing(false); }
  _playing(on) {
    const b = this.$?.play;
    if (!b) return;
    b.replaceChildren(icon(on ? "pause" : "play"));
    b.setAttribute("aria-label", this._(on ? "pause" : "play"));
  }
  _key(e) {
    if (e.altKey || e.ctrlKey || e.metaKey || this.$.help.open) return;
    const at = e.composedPath()[0], input = at.matches?.("input,select"), scroller = at.matches?.(".body"), acts = {};
    if (!at.matches?.(".figure,.scroll")) Object.assign(acts, {ArrowRight: () => this.go(this._step + 1), ArrowLeft: () => this.go(this._step - 1)});
    if (!scroller) Object.assign(acts, {ArrowDown: () => this._jumpCall(1), ArrowUp: () => this._jumpCall(-1), PageDown: () => this._jumpBase(1), PageUp: () => this._jumpBase(-1), Home: () => this.go(0), End: () => this.go(this.steps - 1)});
    if (!scroller && !at.matches?.("button")) acts[" "] = () => this._play();
    acts["?"] = () => this._help();
    if (!acts[e.key] || (input && e.key !== "?") || !this.steps) return;
    if (e.key !== " ") this._stop();
    e.preventDefault();
    e.stopPropagation();
    acts[e.key]();
  }

  // ------------------------------------------------------------ showing one moment
  _show() {
    const {story, $} = this, k = this._step, m = story.moments[k], N = story.moments.length, line = m.call.steps[m.step]?.line;
    const total = this._x[N];
    $.head.style.left = `${100 * this._x[k] / total}%`;
    $.head.style.width = `max(3px, ${100 * (this._x[k + 1] - this._x[k]) / total}%)`;
    $.future.style.left = `${100 * this._x[k + 1] / total}%`;
    $.count.textContent = this._("step_of", k + 1, N);
    const where = `${this._("step_of", k + 1, N)}: ${short(m.call.function)}${line ? ` ${this._("line", line)}` : ""}`;
    $.line.setAttribute("aria-valuenow", k + 1);
    $.line.setAttribute("aria-valuetext", where);
    for (const [b, off] of [[$.first, k === 0], [$.prev, k === 0], [$.next, k === N - 1], [$.last, k === N - 1]]) b.setAttribute("aria-disabled", String(off));
    this._showPath(m);
    this._showBaseControl(k);
    for (const [pane, draw] of [[$.code, () => this._showSource(m)], [$.state, () => this._showState(m, k)], [$.model, () => this._showModel(k)]]) {
      try { draw(); }
      catch (error) { this._shownCall = this._shownBase = null; pane.replaceChildren(h("p", {role: "alert", class: "note"}, this._("broken", error.message))); }   // the other panes still work
    }
    this._reachable();
    if (!this._timer) $.live.textContent = `${where}. ${this._changesInWords(m)}`;
  }
  _showPath(m) {
    const chain = [];
    for (let c = m.call; c; c = c.parent == null ? null : this.story.calls[c.parent]) chain.unshift(c);
    this.$.path.replaceChildren(...chain.flatMap((c, i) => [i ? h("span", {class: "soft", "aria-hidden": "true"}, "›") : null,
      h("button", {type: "button", "aria-current": c === m.call ? "true" : null, title: c.function, onclick: () => this.go(c.first)}, c === m.call && h("span", {class: owner(c) === owner(chain[0]) ? "class shared" : "class"}, owner(c)), short(c.function))]).filter(Boolean));
  }
  _stage(base) {
    const c = this.story.caches.get(base.id);
    return !c ? "" : c.stage === "decode" ? this._("decode", c.step) : this._(c.stage);
  }
  _showBaseControl(k) {
    const {$, story} = this;
    if (!$.base) return;
    const i = Math.max(0, story.bases.filter(b => b.first <= k).length - 1), base = story.bases[i], text = `${this._("base_n", i + 1, story.bases.length)} · ${this._stage(base)}`;
    $.base.value = i;
    $.base.setAttribute("aria-valuetext", text);
    $.baseText.textContent = text;
  }
  _changesInWords(m) {
    if (m.phase === "into" || m.step < 0) return "";
    const step = m.call.steps[m.step];
    const told = step.changes.slice(0, 6).map(c => `${c.name}: ${c.before != null ? this._brief(c.before) + " → " : ""}${c.value != null ? this._brief(c.value) : this._("deleted")}`);
    if (step.branch != null) told.unshift(`${this._("condition")} ${python(step.branch)}`);
    return told.join("; ");
  }

  // ------------------------------------------------------------ source pane
  _showSource(m) {
    const {$, story} = this, source = story.sources[m.call.source], phase = `${m.call.id}`;
    const line = m.phase === "enter" || m.phase === "whole" ? source?.first_line : m.call.steps[m.step]?.line;
    if (this._shownCall !== phase) {
      this._shownCall = phase;
      $.file.textContent = $.file.title = source ? source.file : this._("base_model");
      $.code.className = `body ${source ? "code" : "state"}`;
      $.code.setAttribute("aria-label", this._(source ? "source" : "reached"));
      $.code.replaceChildren(source ? this._lines(source) : this._reached(m.call));
      $.code.scrollTop = 0;
    }
    if (!source) return;
    const {ran, decided, off} = story.path(m), error = (m.phase === "leave") && m.call.raised;
    const future = new Set(m.call.steps.map(x => x.line));
    const at = m.phase === "enter" ? this._defLine : line, bad = error ? error.line ?? line : null;
    for (const row of this._rows) {
      const l = +row.dataset.line, here = l === at;
      row.className = [here && "here", m.phase === "into" && here && "calling", ran.has(l) && "ran", off.has(l) && "off", future.has(l) && "can", bad === l && "bad"].filter(Boolean).join(" ");
      here ? row.setAttribute("aria-current", "step") : row.removeAttribute("aria-current");
      const badge = row.lastChild;
      badge.textContent = decided.has(l) ? (decided.get(l) ? "✓ True" : "✗ False") : ran.get(l) > 1 ? `× ${ran.get(l)}` : "";
      badge.className = decided.has(l) ? (decided.get(l) ? "badge yes" : "badge no") : "badge";
    }
    $.error?.remove();
    $.error = error ? h("div", {class: "message", role: "listitem"}, h("b", {}, error.type), ` ${error.message}`) : null;
    if (error) (this._rows.find(r => +r.dataset.line === bad) || $.code.lastChild).after($.error);
    const current = this._rows.find(r => r.classList.contains("here"));
    if (current) keepInView($.code, current);
  }
  _lines(source) {
    if (!source.text) { this._rows = []; return h("p", {class: "note"}, this._("no_source")); }
    const text = dedent(source.text.replace(/\n$/, "")), first = text.split("\n").findIndex(l => /^(async )?def /.test(l));
    this._defLine = source.first_line + Math.max(0, first);
    const width = String(source.first_line + text.split("\n").length).length;
    const list = h("div", {class: "lines", role: "list", css: {"--digits": `${width}ch`}}, colourLines(text).map((pieces, i) => {
      const l = source.first_line + i;
      return h("div", {role: "listitem", "data-line": l}, h("span", {class: "ln"}, String(l)), h("code", {}, pieces.map(([cls, t]) => cls ? h("span", {class: cls}, t) : t)), h("span", {class: "badge"}));
    }));
    this._rows = [...list.children];
    return list;
  }

  // ------------------------------------------------------------ state pane
  _showState(m, k) {
    const {$, story} = this, base = story.nextBase(k);
    if (m.call.source == null) {
      $.stateTitle.textContent = this._("came_back");
      $.state.replaceChildren(this._cameBack(m.call));
      $.state.scrollTop = 0;
      return;
    }
    const vars = story.variables(m), changed = [...vars].filter(([, v]) => v.change && !v.change.part), rest = [...vars].filter(([, v]) => !v.change);
    const step = m.call.steps[m.step], kids = [];
    $.stateTitle.textContent = this._("variables");
    if (m.phase === "into") kids.push(h("div", {class: "notice"}, h("span", {class: "soft"}, this._("calling")), h("span", {class: "mono"}, [...new Set(step.calls.map(i => story.calls[i].function))].join(", "))));
    if (m.phase === "enter") kids.push(this._h(4, this._("called_with")));
    if (m.phase === "line" || m.phase === "leave") {
      if (changed.length) kids.push(this._h(4, this._("after_line")), h("div", {class: "changed"}, changed.flatMap(([name, v]) => this._changed(name, v, vars, base))));
      if (step?.branch != null) kids.push(h("div", {class: "notice"}, h("span", {class: "soft"}, this._("condition")), h("span", {class: `badge ${step.branch ? "yes" : "no"}`}, step.branch ? "✓ True" : "✗ False")));
      else if (!changed.length && m.phase === "line") kids.push(h("div", {class: "notice soft"}, this._("nothing")));
      if (m.phase === "leave") kids.push(this._ending(m, base));
    }
    if (rest.length) {
      if (m.phase !== "enter") kids.push(this._h(4, this._("others")));
      kids.push(this._table(rest, base));
    }
    $.state.replaceChildren(...kids);
    $.state.scrollTop = 0;
  }
  _reachable() {   // what can be scrolled must be reachable by keyboard
    for (const el of this.shadowRoot.querySelectorAll(".figure, .scroll")) if (el.scrollWidth > el.clientWidth) el.tabIndex = 0;
  }
  _ending(m, base) {
    const {raised, returned} = m.call;
    if (raised) return this._raised(raised);
    if (returned == null) return null;
    return h("div", {class: "changed"}, this._variable("", returned, base, {tag: this._("returns"), name: short(m.call.function)}));
  }
  _raised(error) { return h("div", {class: "changed error"}, h("div", {class: "var"}, h("div", {class: "names"}, h("span", {class: "tag"}, this._("raises")), h("span", {class: "mono"}, error.type)), h("div", {class: "note"}, error.message))); }
  // names that hold nothing go on one line, the others get a row each
  _table(entries, base) {
    const {story} = this, none = [], empty = [], rows = [], inside = name => name.includes("[") ? 0 : entries.filter(([n]) => n.startsWith(name + "[")).length;
    for (const [name, {index}] of entries) {
      const v = story.value(index);
      if (v.kind === "scalar" && v.value === null) none.push(name);
      else if (v.kind === "mapping" && inside(name)) rows.push(h("div", {class: "var"}, h("div", {class: "names"}, h("span", {class: "mono name"}, name), h("span", {class: "type mono"}, `${v.type} · ${inside(name)}`))));
      else if ((v.kind === "mapping" || v.kind === "sequence") && !v.length) empty.push(name);
      else rows.push(this._variable(name, index, base));
    }
    const quiet = (label, names) => names.length ? h("div", {class: "var quiet"}, h("span", {class: "type"}, label), names.map(n => h("span", {class: "mono"}, n))) : null;
    return h("div", {class: "vars"}, rows, quiet("None", none), quiet(this._("empty"), empty));
  }
  _nameOf(name) { const at = name.indexOf("["); return at < 0 ? h("span", {class: "mono name"}, name) : h("span", {class: "mono name"}, h("span", {class: "owner"}, name.slice(0, at)), name.slice(at)); }
  _variable(name, index, base, {tag = null, name: known = name} = {}) {
    const v = this.story.value(index), figure = this._figure(index, known, base);
    return h("div", {class: `var${name.includes("[") ? " entry" : ""}`}, h("div", {class: "names"}, tag ? h("span", {class: "tag"}, tag) : null, name ? this._nameOf(name) : null, this._type(v), this._chip(v)), figure);
  }
  _changed(name, {index, change}, vars, base) {
    const {story} = this, v = story.value(index), before = change.how === "deleted" ? null : change.before, how = {new: "isnew", rebound: "rebound", "in-place": "inplace", deleted: "deleted"}[change.how];
    const was = before == null ? null : story.value(before), tags = [h("span", {class: `tag ${how}`}, this._(how))];
    const aliases = (change.aliases || []).map(a => h("span", {class: "tag alias", title: this._("alias", a)}, "= ", h("span", {class: "mono"}, a)));
    const past = was && this._type(was, null, true), head = h("div", {class: "names"}, this._nameOf(name), past && past.textContent !== this._brief(index) ? [past, h("span", {class: "arrow"}, "→")] : null, this._type(v, was), this._chip(v), tags, aliases);
    const rows = [h("div", {class: `var${how === "deleted" ? " gone" : ""}`}, head, this._beforeAfter(before, index, name, base))];
    if (v.kind === "mapping" && !name.includes("[")) {
      const parts = [...vars].filter(([n, x]) => n.startsWith(name + "[") && x.change?.part);
      if (parts.length) rows.push(this._table(parts, base));
    }
    return rows;
  }
  _dims(shape, old) {
    const same = old && old.length === shape.length;
    return ["[", shape.flatMap((n, i) => [i ? ", " : "", same && old[i] !== n ? h("b", {}, String(n)) : String(n)]), "]"];
  }
  _type(v, old = null, past = false) {
    const cls = `type mono${past ? " old" : ""}`, tensor = old?.kind === "tensor" ? old : null;
    if (v.kind === "tensor") return h("span", {class: cls}, tensor && tensor.dtype !== v.dtype ? h("b", {}, v.dtype) : v.dtype, this._dims(v.shape, tensor?.shape));
    if (v.kind === "scalar") return h("span", {class: `${cls} scalar`}, python(v.value));
    if (v.kind === "cache") return h("span", {class: cls}, v.type, " · ", this._("tokens_n", v.length), v.shape ? [" ", this._dims(v.shape)] : "");
    if (v.kind === "sequence") return h("span", {class: cls}, this._sequenceText(v));
    if (v.kind === "mapping") return h("span", {class: cls}, `${v.type} · ${v.length}`);
    return h("span", {class: cls}, v.type);
  }
  _sequenceText(v) {
    const items = v.items.map(i => this.story.value(i)), [open, close] = v.type === "list" ? "[]" : "()";
    const one = x => x.kind === "scalar" ? python(x.value) : x.kind === "tensor" ? `${x.dtype}[${x.shape.join(", ")}]` : x.type;
    return `${open}${items.slice(0, 8).map(one).join(", ")}${v.length > 8 ? ", …" : ""}${close}`;
  }
  _brief(i) { return this._type(this.story.value(i)).textContent; }
  _chip(v) { return v.kind === "tensor" && v.role !== "other" ? h("span", {class: `chip ${v.role}`}, this._(v.role)) : v.kind === "cache" ? h("span", {class: "chip cache"}, this._("cache")) : null; }

  // ------------------------------------------------------------ figures of values
  _figure(index, name, base) {
    const {story} = this, v = story.value(index);
    if (v.kind === "cache") return v.length ? this._cacheBar(v, v.length, null, base) : null;
    if (v.kind !== "tensor") return null;
    if (v.role === "embeddings" && v.shape.length === 3) return this._blocks(v, name, base);
    const data = story.numbers(index);
    if (!data) return null;
    if (!v.shape.length) return h("div", {class: "number mono"}, typeof data[0] === "number" && !Number.isInteger(data[0]) ? data[0].toPrecision(6) : String(data[0]));
    if (v.attended && v.shape.length === 4 && story.whole(index)) return h("div", {class: "mini"}, attentionSvg(this._grid(v, data, 0), {cell: clamp(Math.floor(150 / Math.max(v.shape[2], v.shape[3])), 2, 8), label: this._("attention_mask")}));
    if (v.shape.length > 2) return null;
    return this._cells(v, data, name, base);
  }
  // numbers as small cells, a row each; offset: columns left free before the first, fresh(row, column): is it new or changed?
  _cells(v, data, name, base, {fresh = null, offset = 0, widths = null} = {}) {
    const [rows, n] = extent(v), shown = Math.min(rows, 4), limit = 160, role = v.role, out = [], roles = this._columns(v, name, base);
    widths ||= this._widths([[v, data, roles, 0]]);
    const pad = widths.slice(0, offset).reduce((a, b) => a + b, 0);
    for (let r = 0; r < shown; r++) {
      const line = h("div", {class: "cells", css: {"padding-left": `${pad}px`}});
      for (let c = 0; c < Math.min(n, limit); c++) {
        const x = data[r * n + c], at = roles?.[r]?.[c];
        if (x === undefined) break;
        line.append(h("i", {class: `cell ${this._cellClass(role, x, at)}${at === "v" ? " of-virtual" : ""}${fresh?.(r, c) ? " fresh" : ""}`, css: {width: `${widths[c + offset]}px`}, title: this._cellTitle(role, x, at, c)}, this._cellText(role, x, at)));
      }
      if (n > limit) line.append(h("span", {class: "soft"}, " …"));
      out.push(line);
    }
    if (rows > shown) out.push(h("div", {class: "soft small"}, this._("more_rows", rows - shown)));
    if (v.truncated) out.push(h("div", {class: "soft small"}, this._("cut")));
    const words = range(shown).map(r => data.slice(r * n, r * n + Math.min(n, 40)).join(" ")).join("; ");
    return h("div", {class: "figure", role: "img", "aria-label": `${name || this._(role)}: ${words}`}, out);
  }
  _columns(v, name, base) {
    const [rows, n] = extent(v), roles = this.story.roles({...v, shape: [rows, n]}, name, base);
    return roles && range(rows).map(r => roles[Math.min(r, roles.length - 1)]);
  }
  // the width of each column, for tables that are to stand under each other: [value, numbers, roles, columns left free before it]
  _widths(tables) {
    const out = [];
    for (const [v, data, roles, offset] of tables) {
      const [rows, n] = extent(v);
      for (let r = 0; r < Math.min(rows, 4); r++) for (let c = 0; c < Math.min(n, 160); c++) {
        const x = data[r * n + c];
        if (x !== undefined) out[c + offset] = Math.max(out[c + offset] || 17, Math.min(60, wide(this._cellText(v.role, x, roles?.[r]?.[c])) * 6.3 + 7));
      }
    }
    if (tables[0][0].role !== "ids") out.fill(Math.max(0, ...out));      // numbers look calmer in equal columns
    return out;
  }
  _cellText(role, x, at) {
    const text = (role === "ids" || (role === "labels" && x >= 0)) ? this.story.text(x) : null;
    return text != null ? (hollow(text) && at === "p" ? this._mark("padding").glyph : seen(text, 7)) : String(x).replace("-", "−");
  }
  _cellClass(role, x, at) {
    if (role === "attention_mask") return x ? "m-attended" : "m-masked";
    if (role === "labels") return x === -100 ? "m-ignored" : "m-label";
    if (role === "ids") return at === "p" ? "m-padding" : at === "g" ? "m-generated" : "m-token";
    return "m-plain";
  }
  _cellTitle(role, x, at, c) {
    const text = role === "ids" || role === "labels" ? this.story.text(x) : null;
    return [`[${c}] ${x}`, text != null ? `'${text}'` : null, role === "labels" && x === -100 ? this._name("ignored") : null, role === "attention_mask" ? this._name(x ? "attended" : "masked") : null, at ? this._name(this._role(at)) : null].filter(Boolean).join(" · ");
  }
  // embeddings: one block per position, no numbers
  _blocks(v, name, base) {
    const roles = this.story.roles(v, name, base), [rows, n, size] = v.shape;
    if (!roles || n > 256) return null;
    return h("div", {class: "figure", role: "img", "aria-label": `${name}: ${v.shape.join(" × ")}`}, range(Math.min(rows, 4)).map(r => h("div", {class: "cells"}, [...roles[Math.min(r, roles.length - 1)]].map((at, c) => h("i", {class: `cell block m-${this._role(at)}`, title: `[${c}] ${this._name(this._role(at))} · ${size}`}, this._mark(this._role(at)).glyph)))));
  }
  _beforeAfter(before, after, name, base) {
    const {story} = this, v = story.value(after), was = before == null ? null : story.value(before);
    const now = v.kind === "tensor" ? story.numbers(after) : null, old = was?.kind === "tensor" ? story.numbers(before) : null;
    if (!now || !old || v.shape.length > 2 || !v.shape.length || was.shape.length !== v.shape.length || v.truncated || was.truncated || v.shape.length === 2 && v.shape[0] !== was.shape[0]) return this._figure(after, name, base);
    if (before === after) return [this._figure(after, name, base)];
    const fit = align(v, now, was, old), row = (label, figure) => h("div", {class: "pair"}, h("span", {class: "soft small"}, this._(label)), figure);
    const widths = this._widths([[v, now, this._columns(v, name, base), fit.padAfter], [was, old, this._columns(was, name, base), fit.padBefore]]);
    return h("div", {class: "compare"}, row("before", this._cells(was, old, name, base, {offset: fit.padBefore, widths})), row("after", this._cells(v, now, name, base, {offset: fit.padAfter, fresh: fit.fresh, widths})));
  }

  // ------------------------------------------------------------ a base call
  _reached(call) {
    const base = call.kind === "base" ? call : null;
    return h("div", {}, h("p", {class: "note"}, call.kind === "base" ? this._("paused") : ""), this._h(3, this._(call.kind === "base" ? "reached" : "called_with")), this._table(Object.entries(call.args).map(([n, index]) => [n, {index}]), base));
  }
  _cameBack(call) {
    const outs = Object.entries(call.outputs), rest = call.returned != null && !outs.length ? [["", {index: call.returned}]] : outs.map(([n, index]) => [n, {index}]);
    if (call.raised) return this._raised(call.raised);
    return this._table(rest, call.kind === "base" ? call : null);
  }
  _showModel(k) {
    const {$, story} = this, base = story.base(k);
    $.modelBox.classList.toggle("absent", !base);
    if (!base) { this._shownBase = null; $.modelTitle.replaceChildren(this._h(3, this._("model")), h("span", {class: "soft"}, this._("no_base"))); $.model.replaceChildren(); return; }
    const when = base.first > k ? "upcoming" : base.first <= k && k <= base.last ? "now" : "recent", token = `${base.id}`;
    if (this._shownBase !== token) { this._shownBase = token; this._group = 0; this._drawModel(base); }
    $.when.textContent = this._(when, base.first + 1);
    $.when.className = `when ${when}`;
    $.when.onclick = () => this.go(base.first);
  }
  _drawModel(base) {
    const {$, story} = this, seq = story.layouts.get(base.id), rows = seq?.rows.length || 0;
    this._row = clamp(this._row, 0, Math.max(0, rows - 1));
    $.when = h("button", {type: "button", title: this._("go")});
    const pick = (label, options, chosen, act) => options.length > 1 ? h("label", {class: "pick"}, label, " ", h("select", {"data-pick": label, onchange: e => { act(+e.target.value); attention.querySelector(`[data-pick="${label}"]`)?.focus(); }}, options.map((o, i) => h("option", {value: i, selected: i === chosen}, o)))) : null;
    const groups = base.attention.filter(a => a.value != null && story.whole(a.value));
    $.modelTitle.replaceChildren(this._h(3, h("span", {}, this._("model")), h("span", {class: "mono soft"}, base.function), h("span", {class: "stage"}, this._stage(base))), $.when);
    const attention = h("div", {class: "attention"}), hover = h("p", {class: "hover", "aria-live": "off"});
    const drawGrid = () => {
      const group = groups[this._group] || groups[0];
      if (!group || !seq) return attention.replaceChildren(this._h(4, this._("attention")), h("p", {class: "note"}, this._("no_attention")));
      const grid = this._axes(base, group, seq), all = (base.attention.length === 1 || groups.length === 1) ? this._("layers_all", group.layers.length) : null;
      const rest = hover.textContent = this._("pairs", grid.cells.length, grid.cells[0]?.length || 0, grid.cells.flat().filter(Boolean).length, grid.cells.length * (grid.cells[0]?.length || 0));
      attention.replaceChildren(
        h("div", {class: "picks"}, this._h(4, this._("attention")), pick(this._("batch_row"), range(rows).map(r => String(r)), this._row, r => { this._row = r; drawGrid(); }),
          pick(this._("layers"), groups.map(g => spans(g.layers)), this._group, g => { this._group = g; drawGrid(); }), all ? h("span", {class: "soft small"}, all) : null),
        attentionSvg(grid, {label: `${this._("attention")}: ${rest}`, words: [this._("keys"), this._("queries")], tell: (q, c) => { hover.textContent = q == null ? rest : this._pair(grid, q, c); }}), hover);
    };
    drawGrid();
    const left = h("div", {class: "left"}, seq ? this._strip(base, seq) : null, this._cacheLine(base));
    $.model.replaceChildren(left, attention, this._io(base));
    if (seq && seq.rows[0].roles.length - seq.query_start < 5) left.querySelector(".scroll").scrollLeft = 1e6;      // this call's inputs stand at the right end
  }
  _pair(grid, q, c) {
    const at = (x) => this._("at", x.text != null ? `'${seen(x.text)}'` : this._mark(x.role).glyph + (x.role === "virtual" ? x.order + 1 : ""), x.index);
    const name = x => x.role === "virtual" ? `${this._mark("virtual").glyph}${x.order + 1}` : at(x);
    return this._(grid.cells[q][c] ? "may" : "may_not", name(grid.queries[q]), name(grid.keys[c]));
  }
  // one row of a measured mask [batch or 1, heads or 1, query, key]; a pair counts when some head may attend
  _grid(v, data, row) {
    const [b, heads, q, k] = v.shape, r = b === 1 ? 0 : row;
    const cells = range(q).map(i => range(k).map(j => { for (let hd = 0; hd < heads; hd++) if (data[((r * heads + hd) * q + i) * k + j]) return 1; return 0; }));
    return {cells, keys: null, queries: null};
  }
  _axes(base, group, seq) {
    const v = this.story.value(group.value), grid = this._grid(v, this.story.numbers(group.value), this._row), row = seq.rows[this._row], total = row.roles.length;
    const start = Math.max(0, total - (grid.cells[0]?.length || 0));            // a sliding window has lost the oldest keys ...
    grid.cells = grid.cells.map(q => q.slice(0, total - start));                 // ... a cache of fixed size has empty slots at the end
    let order = 0;
    const axis = range(total).map(i => ({index: i, role: this._role(row.roles[i]), text: row.roles[i] === "p" && hollow(this.story.text(row.ids?.[i])) ? null : row.ids?.[i] != null ? this.story.text(row.ids[i]) ?? String(row.ids[i]) : null, order: row.roles[i] === "v" ? order++ : null, glyph: this._mark(this._role(row.roles[i])).glyph}));
    return Object.assign(grid, {keys: axis.slice(start), queries: axis.slice(seq.query_start)});
  }
  // the sequence: a table, a group of lines per batch row
  _strip(base, seq) {
    const {story} = this, n = seq.rows[0].roles.length, cached = seq.query_start, limit = this._all ? 64 : 3, text = id => id == null ? "" : seen(story.text(id) ?? String(id), 7);
    const hasLabels = seq.rows.some(r => r.labels?.some(x => x != null)), hasPositions = seq.rows.some(r => r.positions?.some(x => x != null)), hasMask = seq.rows.some(r => r.attended);
    const widths = range(n).map(k => clamp(Math.max(1, ...seq.rows.slice(0, limit).map(r => r.ids && r.roles[k] !== "p" ? wide(text(r.ids[k])) : 1)) * 7 + 8, hasLabels ? 25 : 20, 60));
    const cell = (cls, content, title, width) => h("td", {class: cls, title, css: width && {"min-width": `${width}px`}}, content);
    const head = h("tr", {class: "axis"}, h("td", {class: "corner"}), cached ? h("td", {colspan: cached, class: "span"}, h("span", {}, `${this._("in_cache")} · ${cached}`)) : null, n > cached ? h("td", {colspan: n - cached, class: `span now${n - cached < 5 && cached > 8 ? " short" : ""}`}, h("span", {}, `${this._("this_call")} · ${n - cached}`)) : null);
    const body = seq.rows.slice(0, limit).map((row, r) => {
      let v = 0;
      const lines = [h("tr", {class: "top"}, h("th", {scope: "row"}, this._("row", r)), range(n).map(i => {
        const role = this._role(row.roles[i]), id = row.ids?.[i], known = id != null;
        return cell(`tok m-${role}${i < cached ? " kept" : ""}`, known && !(role === "padding" && hollow(story.text(id))) ? text(id) : this._mark(role).glyph, [`[${i}]`, this._name(role) + (role === "virtual" ? ` ${++v}` : ""), known ? `${story.text(id) != null ? `'${story.text(id)}' ` : ""}id ${id}` : null, i < cached ? this._("in_cache") : null].filter(Boolean).join(" · "), widths[i]);
      }))];
      if (hasMask && row.attended) lines.push(h("tr", {}, h("th", {scope: "row"}, this._("mask")), range(n).map(i => { const b = row.attended[i]; return cell(b === "1" ? "m-attended" : b === "0" ? "m-masked" : "", b === "-" ? "" : b, b === "-" ? null : this._name(b === "1" ? "attended" : "masked")); })));
      if (hasLabels && row.labels) lines.push(h("tr", {}, h("th", {scope: "row"}, this._("label")), range(n).map(i => { const x = row.labels[i]; return x == null ? cell("", "") : x === -100 ? cell("m-ignored", "−100", this._name("ignored")) : cell("m-label", text(x), `id ${x}`); })));
      if (hasPositions && row.positions) lines.push(h("tr", {}, h("th", {scope: "row"}, this._("position")), range(n).map(i => cell("num", row.positions[i] ?? ""))));
      return h("tbody", {}, lines);
    });
    const table = h("table", {class: "strip", "aria-label": this._("sequence")}, h("thead", {}, head), body);
    return h("div", {}, h("div", {class: "scroll", role: "region", "aria-label": this._("sequence")}, table), seq.rows.length > limit ? h("button", {type: "button", class: "soft small", onclick: () => { this._all = true; this._drawModel(base); this._show(); }}, this._("more_rows", seq.rows.length - limit), " ▾") : null, this._legend(new Set(seq.rows.flatMap(r => [...r.roles]).map(c => this._role(c)))));
  }
  _legend(names) { return h("p", {class: "legend"}, [...names].map(n => h("span", {}, h("i", {class: `key m-${n}`}, this._mark(n).glyph), this._name(n)))); }
  _cacheLine(base) {
    const {story} = this, c = story.caches.get(base.id), out = story.value(base.outputs.past_key_values);
    if (!c || (!c.before && c.after == null)) return null;
    const after = c.after ?? c.before, text = [this._("cache_line", c.before, after), c.max_length ? this._("of_max", c.max_length) : null, c.virtual ? this._("of_them", c.virtual) : null].filter(Boolean).join(" · ");
    return h("div", {class: "cache-line"}, this._h(4, this._("cache"), h("span", {class: "soft"}, text)), this._cacheBar(out, after, c, base));
  }
  // keys held, as a bar: the virtual ones, the rest, those added by the call
  _cacheBar(v, after, layout, base) {
    const {story} = this, c = layout || (base && story.caches.get(base.id)), most = Math.max(1, after, ...[...story.caches.values()].map(x => x.max_length || x.after || x.before));
    const virtual = Math.min(c ? c.virtual : 0, after), before = layout ? layout.before : after;
    const part = (from, to, cls, title) => to > from ? h("i", {class: cls, css: {left: `${100 * from / most}%`, width: `${100 * (to - from) / most}%`}, title}) : null;
    return h("div", {class: "cachebar", role: "img", "aria-label": this._("tokens_n", after)}, part(0, virtual, "m-virtual", `${virtual} × ${this._name("virtual")}`), part(virtual, after, "m-token", this._("tokens_n", after - virtual)), layout && after > before ? part(before, after, "grown", this._("added", after - before)) : null);
  }
  _io(base) {
    const list = entries => h("dl", {}, entries.flatMap(([n, i]) => { const v = this.story.value(i), d = v.kind === "tensor" && !v.shape.length && v.role === "loss" ? h("span", {class: "type mono"}, String(this.story.numbers(i)?.[0] ?? "?").slice(0, 8)) : this._type(v); return v.kind === "scalar" && v.value === null ? [] : [h("dt", {class: "mono"}, n), h("dd", {}, d)]; }));
    return h("div", {class: "io"}, h("div", {}, this._h(4, this._("reached")), list(Object.entries(base.args))), h("div", {}, this._h(4, this._("came_back")), base.raised ? h("p", {class: "note"}, this._("nothing_back")) : list(Object.entries(base.outputs))));
  }

  // ------------------------------------------------------------ help
  _helpDialog() {
    const key = (...names) => names.map(n => h("kbd", {}, n)), row = (keys, word) => [h("dt", {}, keys), h("dd", {}, this._(word))];
    const dialog = h("dialog", {"aria-label": this._("help")}, this._h(3, this._("keys_title")), h("dl", {class: "keys"}, row(key("←", "→"), "key_step"), row(key("↑", "↓"), "key_call"), row(key("PageUp", "PageDown"), "key_base"), row(key("Home", "End"), "key_ends"), row(key("Space"), "key_play"), row(key("?"), "key_help")),
      h("p", {class: "note"}, this._("keys_focus")), this._h(3, this._("marks")), this._legend(Object.keys(this.story.payload.marks || {})),
      h("p", {class: "legend"}, h("span", {}, h("i", {class: "key m-plain fresh"}, " "), this._("changed_cell")), h("span", {}, h("span", {class: "badge yes"}, "✓ True"), " ", h("span", {class: "badge no"}, "✗ False"))),
      h("button", {type: "button", class: "close", onclick: () => dialog.close()}, this._("close")));
    dialog.addEventListener("click", e => { if (e.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => this.$.root.focus({preventScroll: true}));
    return dialog;
  }
  _help() { this._stop(); this.$.help.open ? this.$.help.close() : this.$.help.showModal(); }
}

// ---------------------------------------------------------------- helpers that draw or measure
const extent = v => v.shape.length === 2 ? v.shape : [1, v.shape[0]];   // rows, columns
const wide = text => [...text].reduce((n, c) => n + (c > "\u2e7f" ? 1.7 : 1), 0);   // in Latin letters
function keepInView(box, row) {        // scroll the pane, never the page
  const a = box.getBoundingClientRect(), b = row.getBoundingClientRect(), margin = Math.min(70, a.height / 4);
  if (b.top < a.top + margin) box.scrollTop -= a.top + margin - b.top;
  else if (b.bottom > a.bottom - margin) box.scrollTop += b.bottom - a.bottom + margin;
}
function spans(layers) {               // [0, 1, 2, 5] -> "0–2, 5"
  const out = [];
  for (const l of layers) { const last = out[out.length - 1]; if (last && l === last[1] + 1) last[1] = l; else out.push([l, l]); }
  return out.map(([a, b]) => a === b ? `${a}` : `${a}–${b}`).join(", ");
}
// how an old and a new table of numbers lie over each other: something put in front, something added behind, or the same columns
function align(v, now, was, old) {
  const [rows, n] = extent(v), o = extent(was)[1];
  const match = (long, a, short, b, from) => range(rows).every(r => range(b).every(c => long[r * a + from + c] === short[r * b + c]));
  let shift = 0;                       // column of the new table that the old one's first column stands over
  if (n > o && match(now, n, old, o, n - o)) shift = n - o;
  if (n < o && match(old, o, now, n, o - n)) shift = n - o;
  const fresh = (r, c) => { const k = c - shift; return k < 0 || k >= o || now[r * n + c] !== old[r * o + k]; };
  return {padBefore: Math.max(0, shift), padAfter: Math.max(0, -shift), fresh};
}
// query x key, filled where the query may attend, in the colour of what the key is
function attentionSvg(grid, {label, tell = null, words = null, cell = null}) {
  const {cells, keys, queries} = grid, Q = cells.length, K = cells[0]?.length || 0, fit = Math.min(178 / Q, 285 / K), size = cell || (fit < 2 ? fit : clamp(Math.floor(fit), 2, 16)), tall = cell || clamp(Math.floor(178 / Q), size, Q === 1 ? 16 : size);
  const named = keys && size >= 11, text = x => x.text == null ? x.glyph : seen(x.text, 5), turned = named && keys.some(x => text(x).length > 1);
  const left = keys ? (named ? 8 + 6.6 * Math.max(1, ...queries.map(x => text(x).length)) : 7) + 15 : 0, top = keys ? (named ? (turned ? 8 + 6 * Math.max(...keys.map(x => text(x).length)) : 15) : 7) + 15 : 0;
  const W = left + K * size, H = top + Q * tall, svg = s("svg", {class: "grid", width: W + 1, height: H + 1, viewBox: `0 0 ${W + 1} ${H + 1}`, role: "img", "aria-label": label});
  const paths = {};
  cells.forEach((line, q) => { for (let k = 0; k < K;) { if (!line[k]) { k++; continue; } const role = keys ? keys[k].role : "attended", from = k; while (k < K && line[k] && (!keys || keys[k].role === role)) k++; (paths[role] ||= []).push(`M${left + from * size} ${top + q * tall}h${(k - from) * size}v${tall}h${-(k - from) * size}z`); } });
  svg.append(s("rect", {x: left, y: top, width: K * size, height: Q * tall, class: "f-masked"}));
  for (const [role, d] of Object.entries(paths)) svg.append(s("path", {d: d.join(""), class: `f-${role}`}));
  if (size >= 5) svg.append(s("path", {class: "rules", d: range(K + 1).map(k => `M${left + k * size} ${top}v${Q * tall}`).join("") + range(Q + 1).map(q => `M${left} ${top + q * tall}h${K * size}`).join("")}));
  if (keys) {
    keys.forEach((x, k) => svg.append(s("rect", {x: left + k * size, y: top - 5, width: size, height: 4, class: `f-${x.role}`})));
    queries.forEach((x, q) => svg.append(s("rect", {x: left - 5, y: top + q * tall, width: 4, height: tall, class: `f-${x.role}`})));
    if (named) {
      keys.forEach((x, k) => { const cx = left + (k + 0.5) * size, y = top - 8; svg.append(s("text", {x: cx, y, class: "tick", ...(turned ? {transform: `rotate(-90 ${cx} ${y})`, dy: "0.32em"} : {"text-anchor": "middle"})}, text(x))); });
      queries.forEach((x, q) => svg.append(s("text", {x: left - 8, y: top + (q + 0.5) * tall, dy: "0.32em", "text-anchor": "end", class: "tick"}, text(x))));
    }
    svg.append(s("text", {x: left, y: 9, class: "axisname"}, `${words[0]} →`), s("text", {x: 0, y: 0, class: "axisname", transform: `translate(9 ${top + Math.min(Q * tall, 40)}) rotate(-90)`}, Q * tall > 34 ? `← ${words[1]}` : ""));
  }
  if (tell) {
    const cross = s("path", {class: "cross"});
    svg.append(cross);
    const leave = () => { cross.setAttribute("d", ""); tell(null); };
    svg.addEventListener("pointermove", e => {
      const box = svg.getBoundingClientRect(), k = Math.floor(((e.clientX - box.left) * (W + 1) / box.width - left) / size), q = Math.floor(((e.clientY - box.top) * (H + 1) / box.height - top) / tall);
      if (k < 0 || q < 0 || k >= K || q >= Q) return leave();
      cross.setAttribute("d", `M${left} ${top + q * tall}h${K * size}v${tall}h${-K * size}zM${left + k * size} ${top}h${size}v${Q * tall}h${-size}z`);
      tell(q, k);
    });
    svg.addEventListener("pointerleave", leave);
  }
  return svg;
}

customElements.define(TAG, PeftVizTrace);
})();
