// Attention as a grid: a row for each token that reads, on the columns of the strips above.
import { h } from "../dom.js";
import { glyphOf, nameOf } from "./figure.js";

/**
 * @typedef {import("./page.js").PeftVizPlayground} View
 * @typedef {import("./run.js").Answered} Answered
 */

/**
 * Attention of one query over the columns up to its own: one head's, or the mean of all of a layer.
 * @param {Pick<Answered, "columns" | "first" | "rows">} answered
 * @param {number} layer
 * @param {number} head -1: the mean
 * @param {number} query counted from the first column that is read
 * @returns {Float32Array}
 */
export function sharesOf({ columns, first, rows }, layer, head, query) {
  const row = rows[query];
  const out = new Float32Array(row ? first + query + 1 : 0);
  if (!row) return out;
  const heads = head < 0 ? row.shares[layer] : [row.shares[layer][head]];
  let t = 0; // of what the row sees: the columns that are not masked
  for (let k = 0; k < out.length; k++) {
    if (!columns[k].seen) continue;
    out[k] = heads.reduce((sum, shares) => sum + shares[t], 0) / heads.length;
    t++;
  }
  return out;
}

/** @param {View} view @param {Answered} answered @param {number} ghosts */
export function heat(view, answered, ghosts) {
  const { state } = view;
  const { columns, first } = answered;
  const count = answered.rows.length;
  const queries = columns.slice(first, first + count);
  const canvas = h("canvas", { role: "img", "aria-label": view.say("rest") });
  const told = h("p", { class: "told", "aria-live": "off" });
  const { cell, gutter } = view.sizes;
  const tall = Math.max(13, Math.min(20, Math.round(cell * 0.62)));
  const left = gutter + ghosts * cell;
  const row = (q) => sharesOf(answered, state.layer, state.head, q);
  const looked = columns.indexOf(view.lookedAt) - first;

  const paint = () => {
    const wide = left + columns.length * cell;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(count * tall * ratio);
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${count * tall}px`;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    g.font = `12px ${view.paint.mono}`;
    g.textBaseline = "middle";
    g.textAlign = "right";
    queries.forEach((c, q) => {
      const top = q * tall;
      g.fillStyle = q === looked ? view.paint.accent : view.paint.soft;
      g.fillText(glyphOf(c), gutter - 8, top + tall / 2 + 0.5);
      const shares = row(q);
      columns.forEach((key, k) => {
        const x = left + k * cell;
        g.fillStyle = view.paint.rail;
        if (k < shares.length) g.fillRect(x, top, cell - 1, tall - 1);
        if (k < shares.length && !key.seen)
          stripes(g, x, top, cell - 1, tall - 1, view.paint.line);
        if (!shares[k]) return;
        g.globalAlpha = Math.min(1, 0.04 + 0.96 * Math.sqrt(shares[k]));
        g.fillStyle = view.paint[key.role];
        g.fillRect(x, top, cell - 1, tall - 1);
        g.globalAlpha = 1;
      });
      if (q !== looked) return;
      g.strokeStyle = view.paint.accent;
      g.lineWidth = 1.5;
      g.strokeRect(left - 0.5, top - 0.5, (first + q + 1) * cell, tall);
    });
  };
  const rest = () => strongest(view, answered, looked, row) || view.say("rest");
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const k = Math.floor((event.clientX - box.left - left) / cell);
    return [Math.floor((event.clientY - box.top) / tall), k];
  };
  const tell = (q, k) => {
    const [query, key] = [queries[q], columns[k]];
    if (!query || !key) told.textContent = rest();
    else told.textContent = pair(view, query, key, k, row(q));
  };
  canvas.onpointermove = (event) => {
    const [q, k] = at(event);
    tell(q, k);
  };
  canvas.onpointerleave = () => (told.textContent = rest());
  canvas.onclick = (event) => {
    const query = queries[at(event)[0]];
    if (query) view.change({ at: query.name });
  };
  told.textContent = rest();
  return { nodes: [h("div", { class: "heat" }, canvas), told], paint };
}

/** "'=' takes 63 % from 'a'" */
function pair(view, query, key, k, shares) {
  const [q, name] = [nameOf(view, query), nameOf(view, key)];
  if (k >= shares.length) return view.say("future", q, name);
  if (!key.seen) return view.say("hidden", q, name);
  return view.say("gives", q, percent(shares[k]), name);
}

/** The columns from which the chosen token takes most. */
function strongest(view, answered, looked, row) {
  const query = answered.columns[answered.first + looked];
  const shares = looked >= 0 ? Array.from(row(looked)) : [];
  if (!query || !shares.length) return "";
  const order = shares.map((share, k) => ({ share, k })).sort((a, b) => b.share - a.share);
  const parts = order.slice(0, 3).filter((x) => x.share > 0.005);
  if (!parts.length) return "";
  const list = parts.map((x) => `${nameOf(view, answered.columns[x.k])} ${percent(x.share)} %`);
  return view.say("takes_most", nameOf(view, query), list.join(view.say("comma")));
}

/** @param {number} share */
export const percent = (share) => {
  const x = 100 * share;
  return x > 0 && x < 1 ? "<1" : x > 99 && x < 100 ? ">99" : String(Math.round(x));
};

function stripes(g, x, y, wide, tall, colour) {
  g.save();
  g.beginPath();
  g.rect(x, y, wide, tall);
  g.clip();
  g.strokeStyle = colour;
  g.lineWidth = 1;
  g.beginPath();
  for (let at = x - tall; at < x + wide; at += 5) {
    g.moveTo(at, y + tall);
    g.lineTo(at + tall, y);
  }
  g.stroke();
  g.restore();
}
