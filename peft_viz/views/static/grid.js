// Who may attend to whom: a canvas for the cells, an SVG over it for the axes and the cross.
import { h, s } from "./dom.js";
import { perKey, perQuery, pixelEdges, shares, stretchesOf } from "./masks.js";
import { clamp, range, seen } from "./text.js";

/**
 * @typedef {import("./masks.js").Mask} Mask
 * @typedef {{index: number, role: string, text: string | null, order: number | null,
 *   glyph: string}} Tick
 */

const SUMS = 46; // pixels for the sums at the right and below
const TICK = 12; // pixels of the letters at the axes; smaller cells have none
const THIN = 18; // pixels that a grid is high at least
const MANY_SUMS = 400; // more are drawn as one outline

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
  const tall = Math.max(cell, THIN / mask.queries);
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
      for (const [from, to] of stretchesOf(mask, q)) {
        for (const [first, end, colour] of colours.parts) {
          const [a, b] = [Math.max(from, first), Math.min(to, end)];
          if (a >= b) continue;
          if (colours.weight) paintWeights(ctx, q, a, b, colour, { x, y }, colours, mask.keys);
          else {
            ctx.fillStyle = colour;
            ctx.fillRect(x(a), y(q), x(b) - x(a), y(q + 1) - y(q));
          }
        }
      }
    }
  } else paintSmall(ctx, mask, W, H, colours);
  if (at.cell < 5) return;
  ctx.fillStyle = colours.rules;
  for (let k = 1; k < mask.keys; k++) ctx.fillRect(x(k) - scale / 2, 0, scale, H);
  for (let q = 1; q < mask.queries; q++) ctx.fillRect(0, y(q) - scale / 2, W, scale);
}

/** A cell is as strong as its weight; what may not be attended to is left out. */
function paintWeights(ctx, q, from, to, colour, { x, y }, colours, keys) {
  for (let k = from; k < to; k++) {
    const place = [x(k), y(q), x(k + 1) - x(k), y(q + 1) - y(q)];
    ctx.fillStyle = colours.paper;
    ctx.fillRect(...place);
    ctx.globalAlpha = Math.min(1, 0.04 + 0.96 * Math.sqrt(colours.weight[q * keys + k]));
    ctx.fillStyle = colour;
    ctx.fillRect(...place);
    ctx.globalAlpha = 1;
  }
}

/** Sums of each query at the right, of each key below, as bars. */
function drawSums(svg, mask, at, weights) {
  const { cell, tall, left, top, width, height } = at;
  const sum = (n, of) => range(n).reduce((all, i) => all + of(i), 0);
  const { queries, keys } = mask;
  const ofQuery = (q) => sum(keys, (k) => weights[q * keys + k]);
  const ofKey = (k) => sum(queries, (q) => weights[q * keys + k]);
  const right = weights ? range(queries).map(ofQuery) : perQuery(mask);
  const below = weights ? range(keys).map(ofKey) : perKey(mask);
  bars(svg, right, tall, (from, thick, long) => {
    return { x: left + width + 4, y: top + from, width: long, height: thick };
  });
  bars(svg, below, cell, (from, thick, long) => {
    return { x: left + from, y: top + height + 4, width: thick, height: long };
  });
}

/**
 * A bar for each sum; where there are more sums than pixels, one for each pixel, of the largest.
 * @param {Element} svg
 * @param {number[]} sums
 * @param {number} size  of a cell, in pixels
 * @param {(from: number, thick: number, long: number) => object} place
 */
function bars(svg, sums, size, place) {
  const most = sums.reduce((a, b) => Math.max(a, b), 1e-9);
  const text = (x) => (Number.isInteger(x) ? String(x) : x.toFixed(2));
  const long = (x) => ((SUMS - 8) * x) / most;
  if (sums.length <= MANY_SUMS) {
    const thick = Math.max(1, size - (size > 3 ? 1 : 0));
    sums.forEach((x, i) => {
      const box = { ...place(i * size, thick, long(x)), class: "sum" };
      svg.append(s("rect", box, s("title", {}, text(x))));
    });
    return;
  }
  const pixels = Math.max(1, Math.min(sums.length, Math.round(sums.length * size)));
  const edges = pixelEdges(pixels, sums.length);
  const d = range(pixels).map((p) => {
    let largest = 0;
    for (let i = edges[p]; i < edges[p + 1]; i++) largest = Math.max(largest, sums[i]);
    const thick = (edges[p + 1] - edges[p]) * size;
    const { x, y, width, height } = /** @type {any} */ (
      place(edges[p] * size, thick, long(largest))
    );
    const [left, top, wide, high] = [x, y, width, height].map((n) => n.toFixed(1));
    return `M${left} ${top}h${wide}v${high}h-${wide}z`;
  });
  svg.append(s("path", { class: "sum", d: d.join("") }));
}

/** More cells than pixels: a pixel is as strong as the share of its pairs that may attend. */
function paintSmall(ctx, mask, W, H, colours) {
  const across = pixelEdges(W, mask.keys);
  const down = pixelEdges(H, mask.queries);
  for (let py = 0; py < H; py++) {
    const found = shares(mask, down[py], Math.max(down[py] + 1, down[py + 1]), across);
    const look = (p) => Math.round(100 * found[p]); // in percent
    for (let from = 0, to = 0; from < W; from = to) {
      const percent = look(from);
      while (to < W && look(to) === percent) to++;
      if (!percent) continue;
      ctx.globalAlpha = percent / 100;
      for (const [first, end, colour] of colours.parts) {
        const [a, b] = [Math.max(across[from], first), Math.min(across[to], end)];
        if (a >= b) continue;
        const [left, right] = [a, b].map((k) => Math.round((k * W) / mask.keys));
        ctx.fillStyle = colour;
        ctx.fillRect(left, py, Math.max(1, right - left), 1);
      }
    }
  }
  ctx.globalAlpha = 1;
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
  // the edge of the grid: masked cells may look like the paper
  const edge = `M${at.left} ${at.top}h${at.width}v${at.height}h-${at.width}z`;
  const svg = s("svg", { class: "grid", ...box }, s("path", { class: "edge", d: edge }));
  if (axes) drawAxes(svg, axes, at, words);
  if (sums) drawSums(svg, mask, at, weights);
  if (tell) follow(svg, mask, at, tell);
  const roles = axes ? stretches(axes.keys.map((x) => x.role)) : [[0, mask.keys, "attended"]];
  let painted = null; // the theme it was painted in
  view.painters.add(() => {
    const colours = {
      masked: view.paint.masked,
      rules: view.paint.paper,
      paper: view.paint.paper,
      weight: weights,
      parts: roles.map(([from, to, role]) => [from, to, view.paint[role]]),
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
