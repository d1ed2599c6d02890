// Panes that can be made larger and smaller, and one that takes the place of all.
import { h, icon } from "./dom.js";
import { clamp } from "./text.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

/**
 * A line between two panes that can be dragged, or moved by arrow keys.
 * @param {View} view
 * @param {string} name  of the share in `view.splits`, and of its style
 * @param {"x" | "y"} axis  the direction in which it moves
 * @param {() => Element} within  the box that is shared
 */
export function splitter(view, name, axis, within) {
  const put = (share) => {
    view.splits[name] = clamp(share, 0.12, 0.88);
    view.$.root.style.setProperty(`--${name}`, `${(100 * view.splits[name]).toFixed(1)}%`);
    bar.setAttribute("aria-valuenow", String(Math.round(100 * view.splits[name])));
    view.reachable();
  };
  const bar = h("div", {
    class: `splitter ${axis}`,
    role: "separator",
    tabindex: "0",
    "aria-orientation": axis === "x" ? "vertical" : "horizontal",
    "aria-label": view.say("resize"),
    "aria-valuenow": Math.round(100 * view.splits[name]),
    title: view.say("resize"),
  });
  bar.addEventListener("pointerdown", (e) => {
    bar.setPointerCapture(e.pointerId);
    e.preventDefault();
  });
  bar.addEventListener("pointermove", (e) => {
    if (!bar.hasPointerCapture(e.pointerId)) return;
    const box = within().getBoundingClientRect();
    put(axis === "x" ? (e.clientX - box.left) / box.width : (e.clientY - box.top) / box.height);
  });
  bar.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[e.key];
    const mine = axis === "x" ? /Left|Right/.test(e.key) : /Up|Down/.test(e.key);
    if (!by || !mine) return;
    e.preventDefault();
    e.stopPropagation();
    put(view.splits[name] + 0.04 * by);
  });
  return bar;
}

/**
 * A button that lets one pane take all the room, and gives it back.
 * @param {View} view
 * @param {string} name
 */
export function enlarge(view, name) {
  const on = () => view.largest === name;
  const button = h("button", {
    type: "button",
    class: "tool enlarge",
    "aria-label": view.say("enlarge"),
    title: view.say("enlarge"),
    "aria-pressed": String(on()),
    onclick: () => {
      view.largest = on() ? null : name;
      view.$.panel.dataset.largest = view.largest || "";
      button.setAttribute("aria-pressed", String(on()));
      view.reachable();
    },
  });
  button.append(icon("large"));
  return button;
}
