// Words and style of the exercises, once for all pages; then the script that makes forms of them reads them as it
// finds them in a notebook.
for (const element of document.querySelectorAll("peft-viz-exercise")) {
  const { words, style } = /*shared*/ null; // docs_live.py puts them here
  const bytes = Uint8Array.from(atob(element.dataset.exercise), (c) => c.charCodeAt(0));
  const own = JSON.parse(new TextDecoder().decode(bytes));
  const whole = { words: words[element.lang], style, hints: {}, choices: [], why: "", ...own };
  const text = new TextEncoder().encode(JSON.stringify(whole));
  element.dataset.exercise = btoa(Array.from(text, (byte) => String.fromCharCode(byte)).join(""));
}
