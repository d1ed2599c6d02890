// Frames that hosts put around the viewer: some follow the height of what is in them, some are told
// it, some do neither, and then the viewer fits itself into the frame.

const PATIENCE = 700; // milliseconds in which a host may make room
const LEAST = 320; // pixels

/** @param {HTMLElement} el */
export function fitFrame(el) {
  if (window.parent === window || el.hasAttribute("full")) return;
  const wanted = el.getBoundingClientRect().bottom + window.scrollY;
  const lacks = () => window.innerHeight + 1 < wanted;
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
  setTimeout(() => {
    const alone = el.parentElement === document.body || document.body.scrollHeight < wanted + 60;
    if (!el.isConnected || !lacks() || !alone || window.innerHeight < LEAST) return;
    el.style.height = `${Math.floor(window.innerHeight - 4)}px`;
    el.toggleAttribute("fitted", true);
  }, PATIENCE);
}
