// Rotary positions: each pair of numbers of a query or a key is turned by an angle that grows with
// the position. A score of two turned vectors depends on the distance of their positions alone.

/**
 * Turn every head of `x`, in place.
 * @param {Float32Array} x [rows, heads * size]
 * @param {ArrayLike<number>} positions of the rows
 * @param {number} size numbers in a head; the pairs are (0, size / 2), (1, size / 2 + 1), ...
 * @param {number} theta
 */
export function rotate(x, positions, size, theta) {
  const rows = positions.length;
  const width = x.length / rows;
  const half = size / 2;
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < half; i++) {
      const angle = positions[r] * theta ** (-i / half);
      const cos = Math.cos(angle);
      const sin = Math.sin(angle);
      for (let at = r * width + i; at < (r + 1) * width; at += size) {
        const a = x[at];
        const b = x[at + half];
        x[at] = a * cos - b * sin;
        x[at + half] = b * cos + a * sin;
      }
    }
  }
  return x;
}
