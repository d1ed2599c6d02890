// The margin, once for all pages: a page asks for it at the place where it stands. The section of the page is open.
(() => {
  const MARGIN = /*margin*/ null; // docs.py puts it here; its links start at the top of the site
  const WORDS = /*words*/ null; // language -> what it calls things
  const nav = document.currentScript.parentElement;
  const up = document.currentScript.getAttribute("src").replace(/live\/margin\.js$/, "");
  nav.insertAdjacentHTML("beforeend", MARGIN);
  const words = WORDS[document.documentElement.lang];
  if (words) {
    const own = nav.querySelector('ul.sidebar-section a[href^="tutorials/"]'); // the page's own language has them
    own.closest("ul.sidebar-section").parentElement.remove();
    for (const text of nav.querySelectorAll(".menu-text")) text.textContent = words[text.textContent] ?? text.textContent;
    for (const toggle of nav.querySelectorAll("[aria-label]"))
      toggle.setAttribute("aria-label", words[toggle.getAttribute("aria-label")] ?? "");
    window.peftVizWords = words;
  }
  for (const link of nav.querySelectorAll("a[href]")) {
    const target = link.getAttribute("href");
    const spoken = words && target === "playground.html" ? `#lang=${document.documentElement.lang}` : "";
    link.setAttribute("href", up + target + spoken);
    if (target !== nav.dataset.page) continue;
    link.classList.add("active");
    link.setAttribute("aria-current", "page");
    const section = link.closest("ul.sidebar-section");
    section?.classList.add("show");
    for (const toggle of section?.parentElement.querySelectorAll("[data-bs-toggle]") ?? []) {
      toggle.setAttribute("aria-expanded", "true");
      toggle.classList.remove("collapsed");
    }
  }
})();
