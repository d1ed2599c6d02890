// Who may attend to whom, as stretches of keys for each query: a mask of 32,768 x 32,768 takes no
// more room than its runs. Nothing here needs a browser.
import { MOST, unpack } from "./numbers.js";
import { range } from "./text.js";

/**
 * The stretches of query q are numbers starts[q] to starts[q + 1] - 1; stretch i is of the keys
 * from edges[2 * i] up to, and without, edges[2 * i + 1].
 * @typedef {{queries: number, keys: number, starts: Uint32Array, edges: Uint32Array}} Mask
 * @typedef {import("./numbers.js").Packed} Packed
 */

const MOST_KEYS = 2 ** 31;

/** Collects stretches, the queries in order. @param {number} queries @param {number} keys */
function collector(queries, keys) {
  const starts = new Uint32Array(queries + 1);
  const edges = [];
  let q = 0;
  const upTo = (next) => {
    while (q < next) starts[++q] = edges.length / 2;
  };
  const add = (query, from, to) => {
    upTo(query);
    const mine = edges.length / 2 > starts[q];
    if (mine && edges[edges.length - 1] === from) edges[edges.length - 1] = to;
    else edges.push(from, to);
  };
  const done = () => {
    upTo(queries);
    return { queries, keys, starts, edges: Uint32Array.from(edges) };
  };
  return { add, done };
}

/**
 * What one row of a mask [batch or 1, heads or 1, query, key] lets through: a pair counts where
 * some head may attend. Null when there are more queries than can be shown.
 * @param {{shape: number[], data: Packed}} v
 * @param {number} row
 * @returns {Mask | null}
 */
export function maskOfRow(v, row) {
  const [batch, heads, queries, keys] = v.shape;
  if (!(heads * queries <= MOST / 4 && keys <= MOST_KEYS)) return null;
  const area = heads * queries * keys;
  const first = (batch === 1 ? 0 : row) * area;
  const found = collector(heads * queries, keys); // the queries of one head below those of another
  const mark = (from, to) => {
    // [from, to) of the flat numbers may span several queries
    const end = Math.min(to - first, area);
    for (let at = Math.max(from - first, 0); at < end;) {
      const query = Math.floor(at / keys);
      const stop = Math.min(end, (query + 1) * keys);
      found.add(query, at - query * keys, stop - query * keys);
      at = stop;
    }
  };
  const runs = (!Array.isArray(v.data) && v.data?.runs) || null;
  if (runs) {
    for (let i = 0, at = 0; i < runs.length; at += runs[i + 1], i += 2) {
      if (runs[i]) mark(at, at + runs[i + 1]);
    }
  } else {
    (unpack(v.data) || []).forEach((x, i) => {
      if (x) mark(i, i + 1);
    });
  }
  const all = found.done();
  return heads === 1 ? all : anyHead(all, heads, queries);
}

/** The heads of a mask laid over one another. @param {Mask} all */
function anyHead(all, heads, queries) {
  const found = collector(queries, all.keys);
  for (let q = 0; q < queries; q++) {
    const pieces = range(heads).flatMap((head) => stretchesOf(all, head * queries + q));
    pieces.sort((a, b) => a[0] - b[0]);
    let open = null;
    for (const [from, to] of pieces) {
      if (open && from <= open[1]) open[1] = Math.max(open[1], to);
      else {
        if (open) found.add(q, open[0], open[1]);
        open = [from, to];
      }
    }
    if (open) found.add(q, open[0], open[1]);
  }
  return found.done();
}

/** [from, to] of the keys that a query may attend to. @param {Mask} mask @param {number} q */
export function stretchesOf(mask, q) {
  const out = /** @type {[number, number][]} */ ([]);
  for (let i = mask.starts[q]; i < mask.starts[q + 1]; i++) {
    out.push([mask.edges[2 * i], mask.edges[2 * i + 1]]);
  }
  return out;
}

/** May a query attend to a key? @param {Mask} mask @param {number} q @param {number} k */
export function mayAttend(mask, q, k) {
  return stretchesOf(mask, q).some(([from, to]) => from <= k && k < to);
}

/** How many keys each query may attend to. @param {Mask} mask */
export function perQuery(mask) {
  return range(mask.queries).map((q) => {
    return stretchesOf(mask, q).reduce((n, [from, to]) => n + to - from, 0);
  });
}

/** How many queries may attend to each key. @param {Mask} mask */
export function perKey(mask) {
  const steps = new Int32Array(mask.keys + 1);
  for (let i = 0; i < mask.edges.length; i += 2) {
    steps[mask.edges[i]]++;
    steps[mask.edges[i + 1]]--;
  }
  let n = 0;
  return Array.from(steps.subarray(0, mask.keys), (by) => (n += by));
}

/** How many pairs may attend. @param {Mask} mask */
export function pairs(mask) {
  let n = 0;
  for (let i = 0; i < mask.edges.length; i += 2) n += mask.edges[i + 1] - mask.edges[i];
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
  const found = collector(mask.queries, keys);
  for (let q = 0; q < mask.queries; q++) {
    for (const [from, to] of stretchesOf(mask, q)) {
      if (from < keys) found.add(q, from, Math.min(to, keys));
    }
  }
  return { ...found.done(), start };
}

/**
 * Where each of `pixels` pixels begins that show n entries, and where the last one ends.
 * @param {number} pixels
 * @param {number} n
 */
export const pixelEdges = (pixels, n) => {
  return range(pixels + 1).map((p) => Math.floor((p * n) / pixels));
};

/**
 * Some queries in one line of pixels: the share of the pairs in each pixel that may attend.
 * @param {Mask} mask
 * @param {number} q0
 * @param {number} q1
 * @param {number[]} edges  keys at which the pixels begin
 */
export function shares(mask, q0, q1, edges) {
  const pixels = edges.length - 1;
  const whole = new Int32Array(pixels + 1); // queries that begin to fill it, less those that end
  const parts = new Float64Array(pixels);
  const pixelOf = (k) => {
    let p = Math.min(pixels - 1, Math.floor((k * pixels) / mask.keys));
    while (edges[p + 1] <= k) p++;
    while (edges[p] > k) p--;
    return p;
  };
  for (let i = mask.starts[q0]; i < mask.starts[q1]; i++) {
    const [from, to] = [mask.edges[2 * i], mask.edges[2 * i + 1]];
    const [a, b] = [pixelOf(from), pixelOf(to - 1)];
    if (a === b) parts[a] += to - from;
    else {
      parts[a] += edges[a + 1] - from;
      parts[b] += to - edges[b];
      whole[a + 1]++;
      whole[b]--;
    }
  }
  for (let p = 0, n = 0; p < pixels; p++) {
    n += whole[p];
    const width = edges[p + 1] - edges[p];
    parts[p] = width ? (n * width + parts[p]) / (width * (q1 - q0)) : 0;
  }
  return parts;
}
