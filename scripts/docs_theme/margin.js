// The margin, once for all pages: a page asks for it at the place where it stands. The section of the page is open.
const ZH = {
  Home: "首页",
  Playground: "演练场",
  Course: "Course (English)",
  Methods: "方法",
  "How to": "怎样做",
  "What holds": "保证",
  "Internals: the reference": "内部：参考实现",
  "Internals: changing layers": "内部：改动层",
  "Internals: recording": "内部：记录",
  "Internals: figures": "内部：图",
  "Internals: models and commands": "内部：模型和命令",
};
(() => {
  const MARGIN = /*margin*/ null; // docs.py puts it here; its links start at the top of the site
  const nav = document.currentScript.parentElement;
  const up = document.currentScript.getAttribute("src").replace(/live\/margin\.js$/, "");
  nav.insertAdjacentHTML("beforeend", MARGIN);
  if (document.documentElement.lang === "zh")
    for (const text of nav.querySelectorAll(".menu-text")) text.textContent = ZH[text.textContent] ?? text.textContent;
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
