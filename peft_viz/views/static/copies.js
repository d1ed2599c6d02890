// What a reader may take along: a link, the values shown, a picture.
import { h, icon } from "./dom.js";
import { copyText, offer } from "./links.js";
import { picture } from "./picture.js";

/** @typedef {import("./element.js").PeftVizTrace} View */

/** @param {View} view */
export function copyMenu(view) {
  const item = (word, act) => {
    const go = () => {
      menu.removeAttribute("open");
      act();
    };
    return h("button", { type: "button", onclick: go }, view.say(word));
  };
  const told = { "aria-label": view.say("copy"), title: view.say("copy"), class: "round" };
  const menu = h(
    "details",
    { class: "menu", "aria-label": view.say("copy") },
    h("summary", told, icon("copy")),
    h(
      "div",
      { class: "menu-items" },
      item("copy_link", () => view.copyLink()),
      item("copy_value", () => copyValues(view)),
      item("save_svg", () => savePicture(view, "svg")),
      item("save_png", () => savePicture(view, "png")),
    ),
  );
  menu.addEventListener("focusout", (e) => {
    if (!menu.contains(e.relatedTarget)) menu.removeAttribute("open");
  });
  return menu;
}

/** Every table that is shown, a line each row, tabs between the cells. @param {View} view */
async function copyValues(view) {
  const lines = [...view.$.panel.querySelectorAll(".cells, table tr")].map((row) => {
    return [...row.children].map((cell) => cell.textContent.replace("−", "-")).join("\t");
  });
  const text = lines.filter((l) => l.trim()).join("\n");
  view.tell((await copyText(text)) ? view.say("copied") : view.say("not_copied", ""));
}

/** @param {View} view @param {"svg" | "png"} kind */
async function savePicture(view, kind) {
  const svg = picture(view);
  if (!svg) return view.tell(view.say("no_picture"));
  const name = `peft_viz-${view.tab}-${view.step + 1}.${kind}`;
  if (kind === "svg") return offer(new Blob([svg.text], { type: "image/svg+xml" }), name);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg.text)}`;
  await image.decode();
  const canvas = h("canvas", {});
  canvas.width = 2 * svg.width;
  canvas.height = 2 * svg.height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => blob && offer(blob, name), "image/png");
}
