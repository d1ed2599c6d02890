// Moments as Python counts them, from 1; 0 is the sentence in short, where there is one.

/** @typedef {{rec: import("./steps.js").Recording}} Has */

/** @param {Has} view */
const ahead = (view) => (view.rec.story[0]?.kind === "short" ? 0 : 1);

/** The number of the moment with an index. @param {Has} view @param {number} i */
export const numberOf = (view, i) => i + ahead(view);

/** The index of the moment with a number. @param {Has} view @param {number} n */
export const indexOf = (view, n) => Math.max(0, n - ahead(view));
