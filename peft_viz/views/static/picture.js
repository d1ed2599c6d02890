// The figure that is shown as one SVG: its cells as rectangles, its texts, its canvases as images.

/** @typedef {import("./element.js").PeftVizTrace} View */

const escape_ = (text) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const MARGIN = 16;
const DRAWN = "td, th, i, dt, dd, .h4, .soft, canvas, svg.grid, .legend > span";

/**
 * What a reader sees of `.say`, the grid and what came back; null where nothing is drawn.
 * @param {View} view
 * @returns {{text: string, width: number, height: number} | null}
 */
export function picture(view) {
  const box = view.$.panel.querySelector(".sheetbox, .attention");
  if (!box) return null;
  const { panel } = view.$;
  const say = panel.querySelector(".say");
  const parts = [];
  const frame = box.getBoundingClientRect();
  const inside = [...box.querySelectorAll("table, .gridbox")].map((t) => t.scrollWidth);
  const wide = Math.max(frame.width, ...inside);
  const lines = say ? wrap(say.textContent, Math.max(24, wide / 9)) : [];
  const top = MARGIN + lines.length * 24 - frame.top;
  const left = MARGIN - frame.left;
  const ink = getComputedStyle(view.$.root).color;
  lines.forEach((line, i) => {
    const at = `x="${MARGIN}" y="${MARGIN + 16 + 24 * i}" font-size="18" fill="${ink}"`;
    parts.push(`<text ${at}>${escape_(line)}</text>`);
  });
  for (const el of box.querySelectorAll(DRAWN)) {
    parts.push(drawn(/** @type {any} */ (el), left, top));
  }
  const w = Math.ceil(wide + 2 * MARGIN);
  const h_ = Math.ceil(frame.height + top + frame.top + MARGIN);
  const paper = getComputedStyle(view.$.root).backgroundColor;
  const font = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif";
  const size = `width="${w}" height="${h_}"`;
  const ns = 'xmlns="http://www.w3.org/2000/svg"';
  const back = `<rect ${size} fill="${paper}"/>`;
  const head = `<svg ${ns} ${size} viewBox="0 0 ${w} ${h_}" font-family="${font}">`;
  const text = `${head}${back}${parts.join("")}</svg>`;
  return { text, width: w, height: h_ };
}

/** One element: its background, its outline, the text that is directly in it. */
function drawn(el, left, top) {
  const b = el.getBoundingClientRect();
  if (!b.width || !b.height) return "";
  const [x, y] = [b.left + left, b.top + top];
  const n = (v) => v.toFixed(1);
  const place = `x="${n(x)}" y="${n(y)}" width="${n(b.width)}" height="${n(b.height)}"`;
  if (el.tagName === "CANVAS") return `<image ${place} href="${el.toDataURL()}"/>`;
  if (el.tagName === "svg") {
    const kept = [...el.children].filter((c) => !c.classList.contains("cross"));
    return `<g transform="translate(${n(x)} ${n(y)})">${kept.map(styled).join("")}</g>`;
  }
  const style = getComputedStyle(el);
  const out = [];
  if (!/, 0\)$|transparent/.test(style.backgroundColor)) {
    out.push(`<rect ${place} rx="2" fill="${style.backgroundColor}"/>`);
  }
  if (parseFloat(style.outlineWidth) && style.outlineStyle !== "none") {
    const stroke = `stroke="${style.outlineColor}" stroke-width="2"`;
    out.push(`<rect ${place} rx="2" fill="none" ${stroke}/>`);
  }
  const own = [...el.childNodes].filter((c) => c.nodeType === 3 || c.matches?.("span, b"));
  const text = own
    .map((c) => c.textContent)
    .join("")
    .trim();
  if (text && el.children.length < 3) {
    const centre = style.textAlign === "center";
    const at = `x="${n(centre ? x + b.width / 2 : x)}" y="${n(y + b.height / 2)}" dy="0.35em"`;
    const look = `font-size="${style.fontSize}" fill="${style.color}"`;
    const anchor = centre ? ' text-anchor="middle"' : "";
    out.push(`<text ${at} ${look}${anchor}>${escape_(text)}</text>`);
  }
  return out.join("");
}

/** A part of a drawing with the colours that its style sheet gives it. */
function styled(el) {
  const copy = el.cloneNode(true);
  const style = getComputedStyle(el);
  copy.removeAttribute("class");
  for (const name of ["fill", "stroke", "font-size"]) {
    copy.setAttribute(name, style.getPropertyValue(name));
  }
  return new XMLSerializer().serializeToString(copy);
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
