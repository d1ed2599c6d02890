// Small tools that make elements. What a trace says reaches the page through these as text
// (textContent), as an attribute, or as a checked colour, never as markup.

const NS = "http://www.w3.org/2000/svg";

/**
 * Attributes (`title`), listeners (`onclick`) and styles (`css: {width: "3px"}`) of one element.
 * @template {Element} E
 * @param {E} el
 * @param {Record<string, any>} [props]
 * @returns {E}
 */
function set(el, props) {
  for (const [key, value] of Object.entries(props || {})) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key === "css") {
      const { style } = /** @type {any} */ (el);
      for (const [name, x] of Object.entries(value)) style.setProperty(name, x);
    } else el.setAttribute(key, value === true ? "" : value);
  }
  return el;
}

const present = (kids) => kids.flat(9).filter((kid) => kid != null && kid !== false);

/**
 * An HTML element with its children; null and false among them are left out.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...any} kids
 * @returns {any}
 */
export function h(tag, props, ...kids) {
  const el = set(document.createElement(tag), props);
  el.append(...present(kids));
  return el;
}

/**
 * An SVG element with its children.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...any} kids
 * @returns {any}
 */
export function s(tag, props, ...kids) {
  const el = set(document.createElementNS(NS, tag), props);
  el.append(...present(kids));
  return el;
}

/**
 * Put children into an element in place of those that it has. What is in both stays where it is:
 * the same element, and one with the same `data-keep`, which becomes like the new one. A browser
 * lays out what is taken out and put in again, and that takes more time than all the rest.
 * @param {Element} parent
 * @param {...any} kids
 */
export function put(parent, ...kids) {
  const had = new Map();
  for (const el of parent.children) {
    const key = /** @type {HTMLElement} */ (el).dataset?.keep;
    if (key) had.set(key, el);
  }
  const next = present(kids).map((kid) => {
    const old = had.get(kid.dataset?.keep);
    if (!old || old === kid) return kid;
    if ("stays" in kid.dataset) return old;
    sameAttributes(old, kid);
    put(old, ...kid.childNodes);
    return old;
  });
  const stay = new Set(next);
  for (const el of [...parent.childNodes]) if (!stay.has(el)) el.remove();
  let at = parent.firstChild;
  for (const el of next) {
    if (el === at) at = at.nextSibling;
    else parent.insertBefore(el.nodeType ? el : document.createTextNode(el), at);
  }
}

const MEASURED_LATER = new Set(["tabindex", "data-moved", "data-more"]); // since it was made

/** @param {any} old @param {any} made */
function sameAttributes(old, made) {
  for (const { name } of [...old.attributes]) {
    if (!MEASURED_LATER.has(name) && !made.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    // a page's policy forbids a style as an attribute
    if (name === "style") old.style.cssText = made.style.cssText;
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

/**
 * An element as plain data, without listeners. To describe a table of some hundred cells takes less
 * time than to make them, and of those that stand there only what differs is changed.
 * @typedef {{tag: string, props: Record<string, any>, kids: (Plain | string)[]}} Plain
 */

/**
 * @param {string} tag
 * @param {Record<string, any> | null} [props]
 * @param {...any} kids
 * @returns {Plain}
 */
export const plain = (tag, props, ...kids) => {
  return { tag, props: props || {}, kids: present(kids).map((x) => (x.tag ? x : String(x))) };
};

/** What was described, as an element. @param {Plain | string} x */
const made = (x) => (typeof x === "string" ? x : h(x.tag, x.props, x.kids.map(made)));

/** Make an element, described by `was`, into what `now` describes. */
function change(el, was, now) {
  if (was === now) return; // described once, and as it was
  if (typeof was === "string" && typeof now === "string") {
    el.data = now;
    return;
  }
  if (was.tag !== now.tag || was.kids?.length !== now.kids?.length) {
    el.replaceWith(made(now));
    return;
  }
  for (const name in { ...was.props, ...now.props }) {
    const [old, x] = [was.props[name], now.props[name]];
    if (old === x || (name === "css" && JSON.stringify(old) === JSON.stringify(x))) continue;
    if (x == null || x === false) el.removeAttribute(name);
    else set(el, { [name]: x });
  }
  now.kids.forEach((kid, i) => change(el.childNodes[i], was.kids[i], kid));
}

/**
 * An element that was described. `old`, which was made here before, is changed into it, and what is
 * returned is an empty element that stands for `old` until it is put where `old` is.
 * @param {any} old
 * @param {Plain} now
 */
export function described(old, now) {
  const el = old || made(now);
  if (old) change(old, old.described, now);
  el.described = now;
  return old ? h(now.tag, { "data-keep": now.props["data-keep"], "data-stays": true }) : el;
}

/** A colour of the payload, or gray: nothing else may reach a style. @param {any} c */
export const colour = (c) => {
  return typeof c === "string" && /^#[0-9a-fA-F]{3,8}$/.test(c) ? c : "gray";
};

const ICONS = {
  first: "M4 3v10M13 3 6 8l7 5z",
  prev: "M11 3 4 8l7 5z",
  next: "M5 3l7 5-7 5z",
  last: "M12 3v10M3 3l7 5-7 5z",
  play: "M4 2.5 13.5 8 4 13.5z",
  pause: "M4.5 3v10M11.5 3v10",
  up: "M10 3 5 8l5 5",
  down: "M6 3l5 5-5 5",
  large: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
};

/** One of the small pictures on the buttons. @param {keyof typeof ICONS} name */
export const icon = (name) => {
  const box = { viewBox: "0 0 16 16", "aria-hidden": "true", class: `icon ${name}` };
  return s("svg", box, s("path", { d: ICONS[name] }));
};

/**
 * Scroll a pane, never the page, until `row` is in view.
 * @param {Element} box
 * @param {Element} row
 */
export function keepInView(box, row) {
  const a = box.getBoundingClientRect();
  const b = row.getBoundingClientRect();
  const margin = Math.min(70, a.height / 4);
  if (b.top < a.top + margin) box.scrollTop -= a.top + margin - b.top;
  else if (b.bottom > a.bottom - margin) box.scrollTop += b.bottom - a.bottom + margin;
  if (b.width > a.width / 2) return; // not one of several beside each other
  const middle = b.left + b.width / 2 - (a.left + a.width / 2);
  if (b.left < a.left || b.right > a.right) box.scrollLeft += middle;
}

/** Scroll the pane that `el` is in until its beginning is in view. @param {Element} el */
export function reveal(el) {
  const scrolls = (x) => {
    return x.scrollHeight > x.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(x).overflowY);
  };
  let box = el.parentElement;
  while (box && !scrolls(box)) box = box.parentElement;
  if (!box) return;
  const [a, b] = [box.getBoundingClientRect(), el.getBoundingClientRect()];
  if (b.top < a.top || b.top > a.top + a.height / 2) box.scrollTop += b.top - a.top - 8;
}
