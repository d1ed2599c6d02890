// later
import { h } from "./dom.js";
export function decodingPanel(view) {
  return h("div", {}, "decoding");
}
export function showDecoding(view) {}
