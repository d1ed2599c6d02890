// Recordings on a page of the site. An element <peft-viz-trace data-recording="NAME"> gets the recording of that
// name when it comes near the screen. The viewer's code is loaded once, with the first of them.
// A page that was opened from disk may load scripts, but it may not fetch files: so a recording is a script, too.
const LIVE = document.currentScript.src.replace(/[^/]*$/, ""); // the folder of this script
const NEAR = "700px"; // how far below the screen a figure is loaded

const loading = new Map(); // name of a script -> promise
function load(name) {
  if (!loading.has(name)) {
    const element = document.createElement("script");
    const ended = new Promise((done, failed) => {
      element.onload = done;
      element.onerror = () => failed(new Error(`${name} is missing`));
    });
    element.src = LIVE + name;
    document.head.append(element);
    loading.set(name, ended);
  }
  return loading.get(name);
}

const packed = new Map(); // name of a recording -> what its script told
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Put back what several recordings have: a number stands in its place. */
function restored(payload, shared) {
  const whole = (part) => (typeof part === "number" ? shared[part] : part);
  for (const one of [payload, payload.other]) {
    if (!one) continue;
    one.trace.sources = one.trace.sources.map(whole);
    for (const name of ["marks", "method"]) one[name] = whole(one[name]);
  }
  return payload;
}

window.peftViz = {
  /** A recording's script calls this: the recording, packed, and what else is known of it. */
  got: (name, text, about) => packed.set(name, { text, about }),
  /** Load a recording. It is unpacked anew each time, since the viewer writes into it. */
  async recording(name) {
    await Promise.all([load(`recordings/${name}.js`), load("shared.js")]);
    const { text, about } = packed.get(name);
    const [payload, shared] = await Promise.all([unpack(text), unpack(packed.get("shared").text)]);
    return { payload: restored(payload, shared), about };
  },
  /** Show a recording in a viewer. A viewer that shows one already keeps its view and its place in the story. */
  async show(viewer, name) {
    viewer.setAttribute("aria-busy", "true");
    viewer.wanted = name;
    const [{ payload, about }] = await Promise.all([this.recording(name), load("viewer.js")]);
    await customElements.whenDefined("peft-viz-trace");
    if (viewer.wanted !== name) return about; // another one was chosen meanwhile
    const kept = viewer.rec ? { tab: viewer.tab, scene: viewer.sceneIndex } : null;
    payload.lang = document.documentElement.lang || payload.lang;
    viewer.payload = payload;
    if (kept) {
      viewer.openTab(kept.tab);
      viewer.goScene(kept.scene);
    }
    if (about?.call != null) {
      const call = viewer.rec.calls[about.call];
      if (!location.hash || !viewer.hasAttribute("full")) {
        viewer.openTab("lines");
        viewer.go(call.at?.[about.step] ?? call.first ?? 0);
      }
    }
    viewer.classList.add("alive");
    viewer.removeAttribute("aria-busy");
    return about;
  },
  /** The index of the search: the sections of all pages, and the field's terms in two languages. */
  async index() {
    await load("search.js");
    return unpack(packed.get("search").text);
  },
};

const come = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      come.unobserve(target);
      window.peftViz.show(target, target.dataset.recording);
    }
  },
  { rootMargin: NEAR },
);
for (const viewer of document.querySelectorAll("peft-viz-trace[data-recording]")) come.observe(viewer);
if (document.querySelector("peft-viz-exercise")) load("exercise.js");

// recording.html?NAME shows one recording, as large as the window
const alone = document.querySelector("peft-viz-trace[data-alone]");
if (alone) {
  const name = decodeURIComponent(location.search.slice(1)) || alone.dataset.alone;
  window.peftViz.show(alone, name).then(
    (about) => {
      if (!about?.title) return;
      document.title = `${about.title} · peft_viz`;
      const back = document.querySelector("[data-back]");
      back.textContent = about.title;
      if (about.page) back.href = about.page;
    },
    () => document.querySelector("[data-missing]").removeAttribute("hidden"),
  );
}
