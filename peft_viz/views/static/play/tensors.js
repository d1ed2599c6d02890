// The few operations that a Llama is made of. A matrix is a Float32Array, one row after the other.

/**
 * `x` times the transpose of `weight`: what a layer of torch.nn.Linear does, without a bias.
 * @param {Float32Array} x [rows, width]
 * @param {number} rows
 * @param {Float32Array} weight [height, width]
 * @param {number} height
 * @returns {Float32Array} [rows, height]
 */
export function linear(x, rows, weight, height) {
  const width = weight.length / height;
  const out = new Float32Array(rows * height);
  const fours = height - (height % 4);
  const pairs = rows - (rows % 2);
  for (let i = 0; i < height; i += i < fours ? 4 : 1) {
    const w = i * width;
    if (i >= fours) {
      for (let r = 0; r < rows; r++) out[r * height + i] = dot(x, r * width, weight, w, width);
      continue;
    }
    for (let r = 0; r < pairs; r += 2) {
      two(x, r * width, weight, w, width, out, r * height + i, height);
    }
    if (pairs < rows) four(x, pairs * width, weight, w, width, out, pairs * height + i);
  }
  return out;
}

/** One number of one row. */
function dot(x, a, weight, w, width) {
  let s = 0;
  for (let j = 0; j < width; j++) s += x[a + j] * weight[w + j];
  return s;
}

/** Four numbers of one row: each number of the row is read once for all of them. */
function four(x, a, weight, w, width, out, o) {
  const u = w + width;
  const v = u + width;
  const z = v + width;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let j = 0; j < width; j++) {
    const k = x[a + j];
    s0 += k * weight[w + j];
    s1 += k * weight[u + j];
    s2 += k * weight[v + j];
    s3 += k * weight[z + j];
  }
  out[o] = s0;
  out[o + 1] = s1;
  out[o + 2] = s2;
  out[o + 3] = s3;
}

/** Four numbers of two rows: each weight is read once for both, too. */
function two(x, a, weight, w, width, out, o, height) {
  const b = a + width;
  const u = w + width;
  const v = u + width;
  const z = v + width;
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let t0 = 0;
  let t1 = 0;
  let t2 = 0;
  let t3 = 0;
  for (let j = 0; j < width; j++) {
    const k = x[a + j];
    const l = x[b + j];
    let c = weight[w + j];
    s0 += k * c;
    t0 += l * c;
    c = weight[u + j];
    s1 += k * c;
    t1 += l * c;
    c = weight[v + j];
    s2 += k * c;
    t2 += l * c;
    c = weight[z + j];
    s3 += k * c;
    t3 += l * c;
  }
  out[o] = s0;
  out[o + 1] = s1;
  out[o + 2] = s2;
  out[o + 3] = s3;
  out[o + height] = t0;
  out[o + height + 1] = t1;
  out[o + height + 2] = t2;
  out[o + height + 3] = t3;
}

/**
 * Each row divided by its root mean square, then scaled number by number.
 * @param {Float32Array} x [rows, width]
 * @param {number} rows
 * @param {Float32Array} weight [width]
 * @param {number} epsilon
 * @returns {Float32Array} [rows, width]
 */
export function rmsNorm(x, rows, weight, epsilon) {
  const width = weight.length;
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let j = 0; j < width; j++) squares += x[r * width + j] ** 2;
    const scale = 1 / Math.sqrt(squares / width + epsilon);
    for (let j = 0; j < width; j++) out[r * width + j] = weight[j] * x[r * width + j] * scale;
  }
  return out;
}

/** `x` becomes `x` + `scale` * `y`. @param {Float32Array} x @param {Float32Array} y */
export function add(x, y, scale = 1) {
  for (let i = 0; i < x.length; i++) x[i] += scale * y[i];
  return x;
}

/** SiLU of `x`, times `y`: the gate of the MLP. @param {Float32Array} x @param {Float32Array} y */
export function gated(x, y) {
  for (let i = 0; i < x.length; i++) x[i] = (x[i] / (1 + Math.exp(-x[i]))) * y[i];
  return x;
}

/**
 * Scores become shares that add up to 1.
 * @param {Float32Array} x minus infinity: no share
 * @returns {Float32Array} the same array; all zeros where there was no score
 */
export function softmax(x) {
  let most = -Infinity;
  for (const score of x) if (score > most) most = score;
  if (most === -Infinity) return x.fill(0);
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - most);
  for (let i = 0; i < x.length; i++) x[i] /= sum;
  return x;
}

/** Where the largest number stands. @param {Float32Array} x */
export function largest(x) {
  let best = 0;
  for (let i = 1; i < x.length; i++) if (x[i] > x[best]) best = i;
  return best;
}
