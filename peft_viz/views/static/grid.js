// Who may attend to whom: a canvas for the cells, an SVG over it for the axes and the cross.
import { h, s } from "./dom.js";
import { clamp, range, seen } from "./text.js";

/**
 * @typedef {{cells: Uint8Array, queries: number, keys: number}} Mask
 * @typedef {{index: number, role: string, text: string | null, order: number | null,
 *   glyph: string}} Tick
 */

const SUMS = 46; // pixels for the sums at the right and below
const TICK = 12; // pixels of the letters at the axes; smaller cells have none

/** How many pairs may attend. @param {Mask} mask */
export function pairs(mask) {
  const { cells } = mask;
  let n = 0;
  for (let i = 0; i < cells.length; i++) n += cells[i];
  return n;
}

/**
 * The part of a mask that lies on the key axis: a sliding window has lost the oldest keys on the
 * left, a cache of fixed size has empty slots on the right.
 * @param {Mask} mask
 * @param {number} total  keys on the axis
 * @returns {Mask & {start: number}}
 */
export function onAxis(mask, total) {
  const start = Math.max(0, total - mask.keys);
  const keys = Math.min(mask.keys, total - start);
  if (keys === mask.keys) return { ...mask, start };
  const cells = new Uint8Array(mask.queries * keys);
  for (let q = 0; q < mask.queries; q++) {
    cells.set(mask.cells.subarray(q * mask.keys, q * mask.keys + keys), q * keys);
  }
  return { cells, queries: mask.queries, keys, start };
}

/**
 * Runs of equal entries: [first, end, entry]
 * @template T
 * @param {T[]} list
 * @returns {[number, number, T][]}
 */
export function stretches(list) {
  const out = [];
  list.forEach((x, i) => {
    const last = out[out.length - 1];
    if (last && last[2] === x) last[1] = i + 1;
    else out.push([i, i + 1, x]);
  });
  return out;
}

/**
 * Where things stand: size of a cell, room for the axes.
 * @param {Mask} mask
 * @param {[number, number]} most  width and height for the cells
 * @param {{keys: Tick[], queries: Tick[]} | null} axes
 */
function measure(mask, most, axes, largest) {
  const fit = Math.min(most[0] / mask.keys, most[1] / mask.queries);
  const cell = fit < 2 ? fit : clamp(Math.floor(fit), 2, largest);
  const tall = mask.queries === 1 ? Math.max(cell, 18) : cell;
  const named = !!axes && cell >= TICK + 1;
  const text = (x) => (x.text == null ? x.glyph : seen(x.text, 5));
  const longest = (list) => list.reduce((n, x) => Math.max(n, text(x).length), 1) * 7.4;
  const turned = named && axes.keys.some((x) => text(x).length > 1);
  const left = !axes ? 0 : (named ? 10 + longest(axes.queries) : 7) + 17;
  const top = !axes ? 0 : (named ? (turned ? 10 + longest(axes.keys) : 18) : 7) + 17;
  const [width, height] = [cell * mask.keys, tall * mask.queries];
  return { cell, tall, named, turned, text, left, top, width, height };
}

/**
 * The cells: in the colour of what the key is.
 * @param {HTMLCanvasElement} canvas
 * @param {Mask} mask
 */
function paint(canvas, mask, at, colours) {
  const sharp = Math.max(1, Math.min(3, globalThis.devicePixelRatio || 1));
  const scale = at.cell < 1 ? 1 : sharp;
  const W = (canvas.width = Math.max(1, Math.round(at.width * scale)));
  const H = (canvas.height = Math.max(1, Math.round(at.height * scale)));
  const ctx = canvas.getContext("2d");
  if (!ctx) return;
  ctx.fillStyle = colours.masked;
  ctx.fillRect(0, 0, W, H);
  const x = (k) => (k * W) / mask.keys;
  const y = (q) => (q * H) / mask.queries;
  if (at.cell >= 1) {
    for (let q = 0; q < mask.queries; q++) {
      const line = range(mask.keys).map((k) =>
        mask.cells[q * mask.keys + k] ? colours.of(k) : "",
      );
      if (colours.weight) {
        paintWeights(ctx, line, q, { x, y }, colours, mask.keys);
        continue;
      }
      for (const [from, to, colour] of stretches(line)) {
        if (!colour) continue;
        ctx.fillStyle = colour;
        ctx.fillRect(x(from), y(q), x(to) - x(from), y(q + 1) - y(q));
      }
    }
  } else paintSmall(ctx, mask, W, H, colours);
  if (at.cell < 5) return;
  ctx.fillStyle = colours.rules;
  for (let k = 1; k < mask.keys; k++) ctx.fillRect(x(k) - scale / 2, 0, scale, H);
  for (let q = 1; q < mask.queries; q++) ctx.fillRect(0, y(q) - scale / 2, W, scale);
}

/** A cell is as strong as its weight; what may not be attended to is left out. */
function paintWeights(ctx, line, q, { x, y }, colours, keys) {
  for (let k = 0; k < keys; k++) {
    if (!line[k]) continue;
    const place = [x(k), y(q), x(k + 1) - x(k), y(q + 1) - y(q)];
    ctx.fillStyle = colours.paper;
    ctx.fillRect(...place);
    ctx.globalAlpha = Math.min(1, 0.04 + 0.96 * Math.sqrt(colours.weight[q * keys + k]));
    ctx.fillStyle = line[k];
    ctx.fillRect(...place);
    ctx.globalAlpha = 1;
  }
}

/** Sums of each query at the right, of each key below, as bars. */
function drawSums(svg, mask, at, weights) {
  const { cell, tall, left, top, width, height } = at;
  const n = (q, k) => {
    const i = q * mask.keys + k;
    return weights ? weights[i] : mask.cells[i];
  };
  const perQuery = range(mask.queries).map((q) => {
    return range(mask.keys).reduce((sum, k) => sum + n(q, k), 0);
  });
  const perKey = range(mask.keys).map((k) => {
    return range(mask.queries).reduce((sum, q) => sum + n(q, k), 0);
  });
  const most = (list) => list.reduce((a, b) => Math.max(a, b), 1e-9);
  const long = SUMS - 8;
  const text = (x) => (Number.isInteger(x) ? String(x) : x.toFixed(2));
  const tip = (x) => s("title", {}, text(x));
  const [mq, mk] = [most(perQuery), most(perKey)];
  perQuery.forEach((x, q) => {
    const box = { x: left + width + 4, y: top + q * tall, width: (long * x) / mq, class: "sum" };
    svg.append(s("rect", { ...box, height: Math.max(1, tall - (tall > 3 ? 1 : 0)) }, tip(x)));
  });
  perKey.forEach((x, k) => {
    const box = {
      x: left + k * cell,
      y: top + height + 4,
      height: (long * x) / mk,
      class: "sum",
    };
    svg.append(s("rect", { ...box, width: Math.max(1, cell - (cell > 3 ? 1 : 0)) }, tip(x)));
  });
}

/** More cells than pixels: a pixel is as strong as the share of its pairs that may attend. */
function paintSmall(ctx, mask, W, H, colours) {
  const edge = (p, pixels, n) => Math.floor((p * n) / pixels);
  for (let py = 0; py < H; py++) {
    const q0 = edge(py, H, mask.queries);
    const q1 = Math.max(q0 + 1, edge(py + 1, H, mask.queries));
    const shares = range(W).map((px) => {
      const k0 = edge(px, W, mask.keys);
      const k1 = Math.max(k0 + 1, edge(px + 1, W, mask.keys));
      return { colour: colours.of(k0), share: share(mask, q0, q1, k0, k1) };
    });
    const looks = shares.map((x) => (x.share ? `${x.colour} ${x.share.toFixed(2)}` : ""));
    for (const [from, to, look] of stretches(looks)) {
      if (!look) continue;
      ctx.globalAlpha = shares[from].share;
      ctx.fillStyle = shares[from].colour;
      ctx.fillRect(from, py, to - from, 1);
    }
  }
  ctx.globalAlpha = 1;
}

/** The share of the pairs in a part of the mask that may attend. @param {Mask} mask */
function share(mask, q0, q1, k0, k1) {
  let n = 0;
  for (let q = q0; q < q1; q++) {
    for (let i = q * mask.keys + k0; i < q * mask.keys + k1; i++) n += mask.cells[i];
  }
  return n / ((q1 - q0) * (k1 - k0));
}

/** Bars of roles, texts and names at the two axes. */
function drawAxes(svg, axes, at, words) {
  const { cell, tall, left, top } = at;
  for (const [from, to, role] of stretches(axes.keys.map((x) => x.role))) {
    const width = (to - from) * cell;
    svg.append(
      s("rect", { x: left + from * cell, y: top - 5, width, height: 4, class: `f-${role}` }),
    );
  }
  for (const [from, to, role] of stretches(axes.queries.map((x) => x.role))) {
    const height = (to - from) * tall;
    svg.append(
      s("rect", { x: left - 5, y: top + from * tall, width: 4, height, class: `f-${role}` }),
    );
  }
  if (at.named) {
    axes.keys.forEach((tick, k) => {
      const cx = left + (k + 0.5) * cell;
      const y = top - 9;
      const turn = { transform: `rotate(-90 ${cx} ${y})`, dy: "0.32em" };
      const text = at.text(tick);
      const place = text.length > 1 ? turn : { "text-anchor": "middle" };
      svg.append(s("text", { x: cx, y, class: "tick", ...place }, text));
    });
    axes.queries.forEach((tick, q) => {
      const y = top + (q + 0.5) * tall;
      const place = { x: left - 9, y, dy: "0.32em", "text-anchor": "end", class: "tick" };
      svg.append(s("text", place, at.text(tick)));
    });
  }
  svg.append(s("text", { x: left, y: 11, class: "axisname" }, `${words[0]} →`));
  if (at.height < 60) return;
  const turn = `translate(11 ${top + Math.min(at.height, 56)}) rotate(-90)`;
  svg.append(s("text", { class: "axisname", transform: turn }, `← ${words[1]}`));
}

/**
 * @param {import("./element.js").PeftVizTrace} view
 * @param {Mask} mask
 * @param {object} how
 * @param {string} how.label  what it is, for those who do not see it
 * @param {{keys: Tick[], queries: Tick[]} | null} [how.axes]
 * @param {[string, string]} [how.words]  names of the axes
 * @param {[number, number]} [how.most]  room for the cells, in pixels
 * @param {((q: number | null, k?: number) => void) | null} [how.tell]  what is pointed at
 * @param {Float32Array | null} [how.weights]  [query x key], from 0 to 1
 * @param {boolean} [how.sums]  draw the sums at the margins
 * @param {number} [how.largest]  pixels of a cell, at most
 */
export function drawGrid(
  view,
  mask,
  {
    label,
    axes = null,
    words,
    most = [290, 178],
    tell = null,
    weights = null,
    sums = false,
    largest = 18,
  },
) {
  const at = measure(mask, most, axes, largest);
  const W = at.left + at.width + (sums ? SUMS : 0);
  const H = at.top + at.height + (sums ? SUMS : 0);
  const canvas = h("canvas", {
    css: {
      left: `${at.left}px`,
      top: `${at.top}px`,
      width: `${at.width}px`,
      height: `${at.height}px`,
    },
  });
  const box = { width: W, height: H, viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true" };
  const svg = s("svg", { class: "grid", ...box });
  if (axes) drawAxes(svg, axes, at, words);
  if (sums) drawSums(svg, mask, at, weights);
  if (tell) follow(svg, mask, at, tell);
  let painted = null; // the theme it was painted in
  view.painters.add(() => {
    const colours = {
      masked: view.paint.masked,
      rules: view.paint.paper,
      paper: view.paint.paper,
      weight: weights,
      of: (k) => view.paint[axes ? axes.keys[k].role : "attended"],
    };
    if (!canvas.isConnected) return false;
    if (painted !== view.theme) paint(canvas, mask, at, colours);
    painted = view.theme;
    return true;
  });
  const css = { width: `${W}px`, height: `${H}px` };
  return h("div", { class: "gridbox", role: "img", "aria-label": label, css }, canvas, svg);
}

/** A cross that follows the pointer. */
function follow(svg, mask, at, tell) {
  const cross = s("path", { class: "cross", d: "" });
  svg.append(cross);
  const leave = () => {
    cross.setAttribute("d", "");
    tell(null);
  };
  svg.addEventListener("pointermove", (e) => {
    const box = svg.getBoundingClientRect();
    const k = Math.floor((e.clientX - box.left - at.left) / at.cell);
    const q = Math.floor((e.clientY - box.top - at.top) / at.tall);
    if (k < 0 || q < 0 || k >= mask.keys || q >= mask.queries) return leave();
    const [x, y] = [at.left + k * at.cell, at.top + q * at.tall];
    const row = `M${at.left} ${y}h${at.width}v${at.tall}h${-at.width}z`;
    cross.setAttribute("d", `${row}M${x} ${at.top}h${at.cell}v${at.height}h${-at.cell}z`);
    tell(q, k);
  });
  svg.addEventListener("pointerleave", leave);
}
