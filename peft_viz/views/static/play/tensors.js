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
  const out = new Float32Array(rows * height);
  const fours = rows - (rows % 4);
  for (let i = 0; i < height; i++) {
    for (let r = 0; r < fours; r += 4) fourRows(x, r, weight, i, out, height);
    for (let r = fours; r < rows; r++) oneRow(x, r, weight, i, out, height);
  }
  return out;
}

/** A number of the result for four rows: each weight is read once for all of them. */
function fourRows(x, r, weight, i, out, height) {
  const width = weight.length / height;
  const [a, b, c, d] = [r * width, (r + 1) * width, (r + 2) * width, (r + 3) * width];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let j = 0, w = i * width; j < width; j++, w++) {
    const k = weight[w];
    s0 += k * x[a + j];
    s1 += k * x[b + j];
    s2 += k * x[c + j];
    s3 += k * x[d + j];
  }
  const o = r * height + i;
  out[o] = s0;
  out[o + height] = s1;
  out[o + 2 * height] = s2;
  out[o + 3 * height] = s3;
}

/** And for one row: four sums that do not wait for each other. */
function oneRow(x, r, weight, i, out, height) {
  const width = weight.length / height;
  const whole = width - (width % 4);
  const [w, a] = [i * width, r * width];
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  for (let j = 0; j < whole; j += 4) {
    s0 += weight[w + j] * x[a + j];
    s1 += weight[w + j + 1] * x[a + j + 1];
    s2 += weight[w + j + 2] * x[a + j + 2];
    s3 += weight[w + j + 3] * x[a + j + 3];
  }
  for (let j = whole; j < width; j++) s0 += weight[w + j] * x[a + j];
  out[r * height + i] = s0 + s1 + s2 + s3;
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
