// later
import { h } from "./dom.js";
export function attentionPanel(view) {
  return h("div", {}, "attention");
}
export function showAttention(view) {}
