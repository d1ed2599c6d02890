// Which theme does the host show? Jupyter, VS Code, Quarto and others each say it in their own way.

const NAMES = ["data-bs-theme", "data-theme", "data-color-scheme", "theme"];

/**
 * What one element says by its attributes: "dark", "light" or nothing.
 * @param {HTMLElement} el
 */
function told(el) {
  const kind = el.dataset.vscodeThemeKind || "";
  const black = ".vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light)";
  if (/dark|high-contrast(?!-light)/.test(kind) || el.matches(black)) return "dark";
  if (kind || el.matches(".vscode-light, .vscode-high-contrast-light")) return "light";
  for (const name of NAMES) {
    const value = el.getAttribute(name);
    if (value === "dark" || value === "light") return value;
  }
  if (el.matches(".dark, .quarto-dark, .theme-dark, .dark-mode")) return "dark";
  return el.matches(".light, .quarto-light, .theme-light, .light-mode") ? "light" : null;
}

/** What its paper says: nothing where it is transparent. @param {Element} el */
function paper(el) {
  const parts = getComputedStyle(el).backgroundColor.match(/[\d.]+/g) || [0, 0, 0, 0];
  const [r, g, b, a = 1] = parts.map(Number);
  if (a <= 0.5) return null;
  return 0.299 * r + 0.587 * g + 0.114 * b < 110 ? "dark" : "light";
}

/** @returns {"dark" | "light"} */
export function hostTheme() {
  const root = document.documentElement;
  const body = document.body || root;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false" ? "dark" : "light";
  const system = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  return told(body) || told(root) || paper(body) || paper(root) || system();
}
