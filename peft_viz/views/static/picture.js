// The figure that is shown as one SVG: its cells as rectangles, its texts, its canvases as images.
import { s } from "./dom.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

const MARGIN = 16;
const DRAWN = "td, th, i, dt, dd, .h4, .soft, canvas, svg.grid, .legend > span";
const FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif";

/**
 * The sentence, the grid, and what came back; null where nothing is drawn.
 * @param {View} view
 * @returns {{text: string, width: number, height: number} | null}
 */
export function picture(view) {
  const { panel, root } = view.$;
  const box = panel.querySelector(".sheetbox, .attention");
  if (!box) return null;
  const frame = box.getBoundingClientRect();
  const inside = [...box.querySelectorAll("table, .gridbox")].map((t) => t.scrollWidth);
  const wide = Math.max(frame.width, ...inside);
  const say = panel.querySelector(".say");
  const lines = say ? wrap(say.textContent, Math.max(24, wide / 9)) : [];
  const top = MARGIN + lines.length * 24;
  const size = {
    width: Math.ceil(wide + 2 * MARGIN),
    height: Math.ceil(frame.height + top + MARGIN),
  };
  const { color, backgroundColor } = getComputedStyle(root);
  const written = lines.map((line, i) => {
    const place = { x: MARGIN, y: MARGIN + 16 + 24 * i, "font-size": 18, fill: color };
    return s("text", place, line);
  });
  const origin = { left: MARGIN - frame.left, top: top - frame.top };
  const parts = [...box.querySelectorAll(DRAWN)].map((el) => drawn(el, origin));
  const svg = s(
    "svg",
    { ...size, viewBox: `0 0 ${size.width} ${size.height}`, "font-family": FONT },
    s("rect", { ...size, fill: backgroundColor }),
    written,
    parts,
  );
  return { text: new XMLSerializer().serializeToString(svg), ...size };
}

/** One element: its background, its outline, the text that is directly in it. */
function drawn(el, { left, top }) {
  const b = el.getBoundingClientRect();
  if (!b.width || !b.height) return null;
  const short = (v) => +v.toFixed(1);
  const [x, y] = [short(b.left + left), short(b.top + top)];
  const place = { x, y, width: short(b.width), height: short(b.height) };
  if (el.tagName === "CANVAS") return s("image", { ...place, href: el.toDataURL() });
  if (el.tagName === "svg") {
    const kept = [...el.children].filter((c) => !c.classList.contains("cross"));
    return s("g", { transform: `translate(${x} ${y})` }, kept.map(styled));
  }
  const style = getComputedStyle(el);
  const out = [];
  if (!/, 0\)$|transparent/.test(style.backgroundColor)) {
    out.push(s("rect", { ...place, rx: 2, fill: style.backgroundColor }));
  }
  if (parseFloat(style.outlineWidth) && style.outlineStyle !== "none") {
    const line = { stroke: style.outlineColor, "stroke-width": 2, fill: "none" };
    out.push(s("rect", { ...place, rx: 2, ...line }));
  }
  const own = [...el.childNodes].filter((c) => c.nodeType === 3 || c.matches?.("span, b"));
  const words = own.map((c) => c.textContent).join("");
  if (words.trim() && el.children.length < 3) {
    const centre = style.textAlign === "center";
    const look = { "font-size": style.fontSize, fill: style.color, dy: "0.35em" };
    const at = { x: centre ? x + b.width / 2 : x, y: short(y + b.height / 2) };
    out.push(
      s("text", { ...at, ...look, "text-anchor": centre ? "middle" : null }, words.trim()),
    );
  }
  return out;
}

/** A part of a drawing with the colours that its style sheet gives it. */
function styled(el) {
  const copy = el.cloneNode(true);
  const style = getComputedStyle(el);
  copy.removeAttribute("class");
  for (const name of ["fill", "stroke", "font-size"]) {
    copy.setAttribute(name, style.getPropertyValue(name));
  }
  return copy;
}

/** Lines of some length. @param {string} text @param {number} letters */
function wrap(text, letters) {
  const lines = [""];
  for (const word of text.split(/(?<=\s)|(?=[\u4e00-\u9fff])/)) {
    if (lines[lines.length - 1].length + word.length > letters) lines.push("");
    lines[lines.length - 1] += word;
  }
  return lines.map((l) => l.trim()).slice(0, 8);
}
