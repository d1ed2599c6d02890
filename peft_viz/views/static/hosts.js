// Frames that hosts put around the viewer: some follow the height of what is in them, some are told
// it, some do neither, and then the viewer fits itself into the frame.

const PATIENCE = 700; // milliseconds in which a host may make room
const LEAST = 320; // pixels

const TIMES = 6; // that one looks again: a slow page may not be laid out yet

/** @param {HTMLElement} el */
export function fitFrame(el) {
  if (window.parent === window || el.hasAttribute("full")) return;
  const wanted = () => el.getBoundingClientRect().bottom + window.scrollY;
  const lacks = () => window.innerHeight + 1 < wanted();
  ask(el, wanted(), lacks);
  const look = (left) => {
    if (!el.isConnected || !left) return;
    const alone = el.parentElement === document.body || document.body.children.length < 4;
    if (window.innerHeight >= LEAST && lacks() && alone) {
      el.style.height = `${Math.floor(window.innerHeight - 4)}px`;
      el.toggleAttribute("fitted", true);
    } else setTimeout(() => look(left - 1), PATIENCE);
  };
  setTimeout(() => look(TIMES), PATIENCE);
}

/** Say the height to a host that listens; make a frame of this origin as high as its content. */
function ask(el, wanted, lacks) {
  try {
    const colab = /** @type {any} */ (window).google?.colab?.output;
    colab?.setIframeHeight?.(Math.ceil(wanted), true);
    const frame = /** @type {HTMLElement | null} */ (window.frameElement);
    if (frame && lacks() && el.parentElement === document.body) {
      frame.style.height = `${Math.ceil(wanted) + 2}px`;
    }
  } catch {
    // a frame of another origin says nothing and takes nothing
  }
}
