// Addresses and copies: #moment=3, #step=84, with the view, the language and the theme.
import { numberOf } from "./numbering.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

/**
 * The places that an address names: a moment as the story counts them, a step from 0; what it does
 * not name is left out.
 * @param {string} hash
 * @returns {{moment?: number, step?: number, view?: string, lang?: 0 | 1, theme?: string,
 *   row?: number}}
 */
export function readHash(hash) {
  const found = new Map(
    [...hash.replace(/^#/, "").split("&")].map((x) => {
      const at = x.indexOf("=");
      return [x.slice(0, at), x.slice(at + 1)];
    }),
  );
  /** @type {any} */
  const out = {};
  for (const name of ["moment", "step", "row"]) {
    if (/^\d{1,9}$/.test(found.get(name) || "")) out[name] = +found.get(name);
  }
  if (out.step != null) out.step = Math.max(0, out.step - 1);
  if (/^[a-z]+$/.test(found.get("view") || "")) out.view = found.get("view");
  if (/^(en|zh)/.test(found.get("lang") || "")) out.lang = +found.get("lang").startsWith("zh");
  if (/^(light|dark)$/.test(found.get("theme") || "")) out.theme = found.get("theme");
  return out;
}

/** The address of what is shown now. @param {View} view */
export function hashOf(view) {
  const parts = [];
  if (view.tab === "story") parts.push(`moment=${numberOf(view, view.sceneIndex)}`);
  else parts.push(`step=${view.step + 1}`);
  if (view.tab !== "story" && view.tab !== "lines") parts.push(`view=${view.tab}`);
  if (view.row !== view.firstRow) parts.push(`row=${view.row}`);
  if (view.language !== view.firstLanguage) parts.push(`lang=${view.language ? "zh" : "en"}`);
  if (view.chosenTheme) parts.push(`theme=${view.chosenTheme}`);
  return `#${parts.join("&")}`;
}

/**
 * Put a text where the reader can paste it from; false where the page may not.
 * @param {string} text
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // a page from disk, or an older browser
    area.value = text;
    area.setAttribute("readonly", "");
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Hand a file to the reader. @param {Blob} blob @param {string} name */
export function offer(blob, name) {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(blob);
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
}
