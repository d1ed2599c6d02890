// What is wider than the screen can be scrolled with the keyboard, too; the style sheet shows that there is more.
function reachable() {
  for (const el of document.querySelectorAll("main table, main pre, main .sm, main .mx-wide, main .math.display, main .cell-output-display")) {
    const wide = el.scrollWidth > el.clientWidth + 1;
    if (wide && !el.hasAttribute("tabindex")) el.tabIndex = 0;
    const scrolls = wide && getComputedStyle(el).overflowX !== "visible";
    el.classList.toggle("pv-more", scrolls && el.scrollLeft + el.clientWidth < el.scrollWidth - 2);
    el.onscroll = reachable;
  }
}
// On a phone, a column of sentences is wider than one of words, and the cells of a row whose names fill a screen stand
// below each other: the style sheet knows them by these classes.
for (const cell of document.querySelectorAll("main table:not([class^='sm-']) td")) {
  const { length } = cell.textContent;
  if (length > (cell.cellIndex ? 60 : 14)) cell.classList.add("pv-long");
  if (length > 400) cell.closest("table").classList.add("pv-stacked");
}
addEventListener("load", reachable, true); // of pictures, too
addEventListener("resize", reachable);

// A link to something folded opens it: an entry of the API reference, a row of the map.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let opened = false;
  for (let el = target.closest("details"); el; el = el.parentElement.closest("details")) {
    opened ||= !el.open;
    el.open = true;
  }
  if (opened) target.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();

// Paper is white: a dark page is printed light.
let darkPage = false;
for (const when of ["beforeprint", "afterprint"]) {
  addEventListener(when, () => {
    const { dataset, classList } = document.documentElement;
    const dark = when === "afterprint";
    if (!dark) darkPage = dataset.scheme === "alternate";
    if (!darkPage) return;
    if (dark) dataset.scheme = "alternate";
    else delete dataset.scheme;
    classList.toggle("quarto-dark", dark);
    for (const sheet of document.querySelectorAll("link.quarto-color-scheme"))
      sheet.media = sheet.classList.contains("quarto-color-alternate") === dark ? "all" : "not all";
  });
}

// On the first page: copy the command
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const said = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = button.dataset.done;
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
    }
    setTimeout(() => (button.textContent = said), 2000);
  });
}
