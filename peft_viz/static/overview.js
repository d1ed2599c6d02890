// later
import { h } from "./dom.js";
export function overviewPanel(view) {
  return h("div", {}, "overview");
}
export function showOverview(view) {}
