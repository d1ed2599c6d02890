// The margin, once for all pages: a page asks for it at the place where it stands. The section of the page is open.
(() => {
  const MARGIN = /*margin*/ null; // docs.py puts it here; its links start at the top of the site
  const nav = document.currentScript.parentElement;
  const up = document.currentScript.getAttribute("src").replace(/live\/margin\.js$/, "");
  nav.insertAdjacentHTML("beforeend", MARGIN);
  for (const link of nav.querySelectorAll("a[href]")) {
    const target = link.getAttribute("href");
    link.setAttribute("href", up + target);
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
