// The rows of text: what is read and what is written, with mask and positions, on one grid of
// columns. A cell of the tokens chooses the column that is looked at, one of the mask turns the
// mask over.
import { h } from "../dom.js";

/**
 * @typedef {import("./page.js").PeftVizPlayground} View
 * @typedef {import("./run.js").Column} Column
 * @typedef {import("./run.js").Answered} Answered
 */

/** How a column is called in a sentence. @param {View} view @param {Column} c */
export function nameOf(view, c) {
  const n = +c.name.slice(1) + 1;
  if (c.role === "virtual") return `◆${n}`;
  if (c.role === "padding") return `□${n}`;
  return c.text === "<eos>" ? view.say("end") : `‘${c.text}’`;
}

/** What stands in a cell. @param {Column} c */
export function glyphOf(c) {
  if (c.role === "virtual") return `◆${+c.name.slice(1) + 1}`;
  if (c.role === "padding") return "□";
  if (c.text === "<eos>") return "■";
  return c.text === " " ? "␣" : c.text.replace(/^<(.).*>$/, "‹$1›");
}

/**
 * The lane of one run: its name and verdict, and its strips.
 * @param {View} view
 * @param {Answered} answered
 * @param {{name: string, note?: string, verdict: any, ghosts: number, offset: number,
 *   whole: boolean}} how
 */
export function lane(view, answered, how) {
  const { columns } = answered;
  const strips = [tokenStrip(view, answered, how)];
  if (how.whole) strips.push(maskStrip(view, columns, how), positionStrip(view, columns, how));
  const name = h("div", { class: "lane-name" }, h("b", {}, how.name), how.verdict);
  const kind = how.whole ? "lane" : "lane beside";
  return h("section", { class: kind, "aria-label": how.name }, name, strips);
}

/** A row of cells after its name; `ghosts` are places where nothing stands. */
function strip(view, word, how, cells, props = {}) {
  const empty = Array.from({ length: how.ghosts }, () => h("i", { class: "ghost" }));
  const gap = how.offset ? [h("i", { css: { "grid-column": `span ${how.offset}` } })] : [];
  const label = h("span", { class: "strip-name" }, view.say(word));
  return h("div", { class: `strip ${word}`, ...props }, label, gap, empty, cells);
}

/** Arrow keys walk along a strip; one of its cells is reached by Tab. */
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1, Home: -999, End: 999 }[event.key];
  if (!step) return;
  const cells = [...event.currentTarget.querySelectorAll("button")];
  const at = cells.indexOf(event.target.closest("button"));
  const to = cells[Math.max(0, Math.min(cells.length - 1, at + step))];
  if (!to) return;
  event.preventDefault();
  for (const cell of cells) cell.tabIndex = cell === to ? 0 : -1;
  to.focus();
}

/** @param {View} view @param {string} word @param {any} how @param {any[]} cells */
function walked(view, word, how, cells) {
  const buttons = cells.filter((cell) => cell.localName === "button");
  const chosen = buttons.find((b) => b.getAttribute("aria-pressed") === "true") || buttons[0];
  for (const b of buttons) b.tabIndex = b === chosen ? 0 : -1;
  const label = `${how.name}: ${view.say(word)}`;
  return strip(view, word, how, cells, { role: "group", "aria-label": label, onkeydown: walk });
}

/** @param {View} view @param {Answered} answered */
function tokenStrip(view, answered, how) {
  const cells = answered.columns.map((c) => {
    const classes = ["cell", `m-${c.role}`];
    if (!c.seen && c.role !== "padding") classes.push("out");
    if (c.text === "<eos>") classes.push("end");
    const title = `${view.say(c.role === "padding" ? "pad" : c.role)} ${nameOf(view, c)}`;
    if (!how.whole) return h("i", { class: classes.join(" "), title }, glyphOf(c));
    const on = c.name === view.lookedAt.name;
    const props = {
      type: "button",
      class: classes.join(" "),
      title,
      "data-key": `at ${c.name}`,
      "aria-pressed": String(on),
      "aria-label": view.say("look", title),
      onclick: () => view.change({ at: c.name }),
    };
    return h("button", props, glyphOf(c));
  });
  if (how.whole) return walked(view, "tokens", how, cells);
  const read = answered.columns.map(glyphOf).join(" ");
  return strip(view, "tokens", how, cells, { role: "img", "aria-label": `${how.name}: ${read}` });
}

/** @param {View} view @param {Column[]} columns */
function maskStrip(view, columns, how) {
  const cells = columns.map((c) => {
    const mark = c.seen ? "attended" : "masked";
    if (c.role === "generated") return h("i", { class: "cell small m-plain pale" }, "1");
    const label = view.say(c.seen ? "hide" : "show", nameOf(view, c));
    const turned = view.state.out.includes(c.name);
    const props = {
      type: "button",
      class: `cell small m-${mark}${turned ? " turned" : ""}`,
      title: label,
      "aria-label": label,
      "aria-pressed": String(turned),
      "data-key": `mask ${c.name}`,
      onclick: () => view.turn(c.name),
    };
    return h("button", props, String(c.seen));
  });
  return walked(view, "mask", how, cells);
}

/** @param {View} view @param {Column[]} columns */
function positionStrip(view, columns, how) {
  const wrong = columns.some((c) => c.role === "padding") && view.state.counted;
  const cells = columns.map((c) => {
    const pale = c.role === "padding" && !c.seen ? " pale" : "";
    const odd = wrong && c.role !== "virtual" ? " odd" : "";
    return h("i", { class: `cell small m-plain${pale}${odd}` }, String(c.position));
  });
  const read = `${view.say("position")}: ${columns.map((c) => c.position).join(" ")}`;
  return strip(view, "position", how, cells, { role: "img", "aria-label": read });
}
