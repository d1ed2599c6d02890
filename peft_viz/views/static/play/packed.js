// The weights as they travel: half precision, the high bytes first and then the low ones, deflated,
// as base64. What playground.py packs, this unpacks.

/**
 * @typedef {object} Packed
 * @property {import("./llama.js").Config} config
 * @property {string[]} vocabulary
 * @property {[string, number[]][]} tensors name and shape, in their order
 * @property {Record<string, {virtual?: number, rank?: number, scale?: number,
 *   modules?: string[]}>} methods how each of them was learned
 * @property {string[]} tasks
 * @property {string} bytes
 */

/** A number of 16 bits as one of 32 or 64. @param {number} bits */
export function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** @param {string} base64 @returns {Promise<Uint8Array>} */
async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * The tensors by name.
 * @param {Packed} packed
 * @returns {Promise<Record<string, Float32Array>>}
 */
export async function unpackTensors(packed) {
  const bytes = await inflate(packed.bytes);
  const count = bytes.length / 2;
  const table = Float32Array.from({ length: 65536 }, (_, bits) => half(bits));
  /** @type {Record<string, Float32Array>} */
  const out = {};
  let at = 0;
  for (const [name, shape] of packed.tensors) {
    const size = shape.reduce((a, b) => a * b, 1);
    const tensor = new Float32Array(size);
    for (let i = 0; i < size; i++, at++) tensor[i] = table[(bytes[at] << 8) | bytes[count + at]];
    out[name] = tensor;
  }
  return out;
}
