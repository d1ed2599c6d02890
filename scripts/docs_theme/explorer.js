// The explorer: choose a method and its settings; the recording of a model that ran with them is shown.
const GRID = /*grid*/ null; // docs_live.py puts what was recorded here
const WORDS = {
  en: {
    method: "method",
    virtual: "virtual tokens",
    side: "padding",
    cache: "cache of generate",
    left: "left",
    right: "right",
    dynamic: "growing",
    static: "static",
    none: "none",
    0: "has none",
    open: "Open in a page of its own",
  },
  zh: {
    method: "方法",
    virtual: "虚拟词元",
    side: "填充",
    cache: "生成时的缓存",
    left: "左侧",
    right: "右侧",
    dynamic: "动态",
    static: "静态",
    none: "不用",
    0: "没有",
    open: "在单独的页面中打开",
  },
};

function element(tag, props, ...kids) {
  const el = Object.assign(document.createElement(tag), props);
  el.append(...kids);
  return el;
}

class Explorer {
  constructor(box, number) {
    this.box = box;
    this.number = number;
    this.lang = /^zh/.test(document.documentElement.lang) ? "zh" : "en";
    this.words = WORDS[this.lang];
    this.viewer = box.querySelector("peft-viz-trace");
    const [method, virtual, side, cache] = this.viewer.dataset.recording.split("-");
    this.chosen = { method, virtual: +virtual, side, cache };
    this.wanted = this.chosen.virtual || GRID.virtual[1]; // kept while a method is shown that has none
    this.form = element("form", { className: "pv-knobs" });
    this.open = element("a", { className: "pv-open", textContent: this.words.open });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("change", (event) => this.choose(event.target));
    box.prepend(this.form);
    box.append(this.open);
    this.build();
  }
  get name() {
    const { method, virtual, side, cache } = this.chosen;
    return `${method}-${virtual}-${side}-${cache}`;
  }
  build() {
    const select = element("select", { name: "method", id: `explorer-${this.number}` });
    for (const method of GRID.methods) {
      const option = { value: method.key, textContent: method[this.lang] };
      select.append(element("option", { ...option, selected: method.key === this.chosen.method }));
    }
    const label = element("label", { htmlFor: select.id, textContent: this.words.method });
    this.form.append(element("div", { className: "pv-knob" }, label, select));
    for (const name of ["virtual", "side", "cache"]) this.form.append(this.radios(name));
    this.refresh();
  }
  radios(name) {
    const legend = element("legend", { textContent: this.words[name] });
    const group = element("fieldset", { className: "pv-knob" }, legend);
    const row = element("div", { className: "pv-choices" });
    for (const value of GRID[name]) {
      const input = element("input", { type: "radio", name, value, checked: value === this.chosen[name] });
      row.append(element("label", {}, input, element("span", { textContent: this.words[value] ?? value })));
    }
    group.append(row);
    return group;
  }
  choose(input) {
    const value = input.name === "virtual" ? +input.value : input.value;
    if (input.name === "virtual") this.wanted = value;
    this.chosen[input.name] = value;
    const has = GRID.methods.find((m) => m.key === this.chosen.method).virtual;
    this.chosen.virtual = has ? this.wanted : 0;
    this.refresh();
    window.peftViz.show(this.viewer, this.name);
  }
  refresh() {
    const group = this.form.querySelector("[name=virtual]").closest("fieldset");
    group.disabled = !this.chosen.virtual;
    group.querySelector("legend").textContent = this.chosen.virtual
      ? this.words.virtual
      : `${this.words.virtual}: ${this.words[0]}`;
    this.open.href = `${LIVE}../recording.html?${this.name}`;
  }
}
document.querySelectorAll(".pv-explorer").forEach((box, number) => new Explorer(box, number));
