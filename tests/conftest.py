"""What every test file may lean on: an offline, repeatable process, and a real Chromium.

Fixtures
--------
`browser`       one headless Chromium for the whole run (Debian's, driven by Playwright).
`page`          a fresh, empty tab in a context of its own; see `Page` below for what it adds to Playwright's page.
`new_page`      a function that makes more of them: `new_page(color_scheme="dark", offline=True,
                viewport={"width": 400, "height": 800})`.

Where there is no Chromium the browser tests are skipped, and say so; with `PEFT_VIZ_BROWSER=required`
(which `make test` sets when it could install one) they fail instead.
"""

import os

# Nothing in the tests may reach for the network: set before anything imports transformers.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    JUPYTER_PLATFORM_DIRS="1",
    MPLBACKEND="agg",
)
# Small models gain nothing from threads, and the sum of floats then has one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import asyncio, functools, gc, pathlib, re, shutil, signal, sys, warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# the first one draws the same pages without a window around each, and opens them three times as fast
CHROMIUM_NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


def pytest_configure(config):
    config.addinivalue_line("markers", "browser: needs Chromium")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, the tests of a file stay together, because they share what is expensive to make: a site,
    a server, recordings. In the lane "broad" only those of one family do: what stands first in their brackets."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    @functools.cache
    def is_broad(file):
        return "\n# lane: broad\n" in (config.rootpath / file).read_text(encoding="utf-8")

    class ByFileOrFamily(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            first = test.partition("[")[2].partition("-")[0].rstrip("]") or test
            return f"{file} {first}" if is_broad(file) else file

    return ByFileOrFamily(config, log)


# a set of texts, whose order differs from process to process, or an address
OF_ONE_PROCESS = re.compile(r"\{'[^':]*'(?:, '[^':]*')+\}| at 0x[0-9a-f]+")


def pytest_collection_modifyitems(items):
    "A test is called the same in each process; where it is not, pytest-xdist's workers refuse to begin, now and then."
    unsteady = [item.nodeid for item in items if OF_ONE_PROCESS.search(item.nodeid)]
    if unsteady:
        raise pytest.UsageError(f"Give these tests other `ids`, without a set or an address: {unsteady}")


def find_chromium():
    "Path of the installed Chromium or Chrome, or None. `PEFT_VIZ_CHROMIUM` names one that is elsewhere."
    named = os.environ.get("PEFT_VIZ_CHROMIUM")
    if named:
        return named
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((path for path in found if path), None)


def no_browser(reason):
    "Skip, or fail where a browser is required, saying why."
    (pytest.fail if os.environ.get("PEFT_VIZ_BROWSER") == "required" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def browser():
    "One headless Chromium for the whole run."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("Playwright is not installed: pip install playwright")
    chromium = find_chromium()
    if chromium is None:
        no_browser(
            "No Chromium found: install it (Debian: apt-get install chromium) or set PEFT_VIZ_CHROMIUM"
        )
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield instance
        instance.close()


class Page:
    """A Playwright page that also remembers what went wrong in it. Everything of Playwright's page is there
    under its own name.

    `page.problems`   list of str: console errors, uncaught exceptions, failed requests, in order of appearance
    `page.requests`   list of str: the URL of every request made
    `page.external`   those of them that left this machine (not file:, data:, blob:, about:, nor 127.0.0.1)
    `page.show(x)`    open a `pathlib.Path` from disk, or show a string of HTML, or go to a URL
    `page.raw`        Playwright's own page, for `playwright.sync_api.expect(page.raw...)`
    """

    def __init__(self, raw):
        self.raw, self.problems, self.requests = raw, [], []
        raw.on(
            "console",
            lambda m: self.problems.append(f"console error: {m.text}") if m.type == "error" else None,
        )
        raw.on("pageerror", lambda e: self.problems.append(f"page error: {e}"))
        raw.on("requestfailed", self._failed)
        raw.on("request", lambda r: self.requests.append(r.url))

    def _failed(self, request):
        if request.failure != "net::ERR_ABORTED":  # that is one on its way when the page was left
            self.problems.append(f"request failed: {request.url}, {request.failure}")

    def __getattr__(self, name):
        return getattr(self.raw, name)

    @property
    def external(self):
        local = (
            "file:",
            "data:",
            "blob:",
            "about:",
            "http://127.0.0.1:",
            "ws://127.0.0.1:",
            "http://localhost:",
        )
        return [url for url in self.requests if not url.startswith(local)]

    def show(self, what):
        if isinstance(what, pathlib.Path):
            return self.raw.goto(what.resolve().as_uri())
        if what.startswith(("http:", "https:", "file:", "about:")):
            return self.raw.goto(what)
        return self.raw.set_content(what)


@pytest.fixture
def new_page(browser):
    "A function that opens a fresh tab in a context of its own; its keywords are those of Playwright's `new_context`."
    contexts = []

    def make(**options):
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(60_000)
        return Page(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_page):
    "A fresh tab, light theme, 1280 x 900; see `Page`."
    return new_page()


def pytest_collection_finish():
    "What has been imported stays: it need not be looked through for garbage during every test."
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def process():
    """`torch.manual_seed` notes for each kind of accelerator, with the text of the whole stack, that it is to be seeded
    when it is first used: a tenth of the time of these tests. Here none is used. And Ctrl-C reaches the processes that
    tests start, also where this one runs in the background, deaf to it."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                # raising=False: torch 2.9 has no such function for each of them
                patch.setattr(device, "manual_seed_all", lambda seed: None, raising=False)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


def run_async(coroutine):
    """What a coroutine returns. It runs in a thread of its own: in this one an event loop runs already, and
    `asyncio.run` refuses, as soon as any test of this process has opened the browser."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, coroutine).result()


@pytest.fixture
def quiet_and_single():
    "No warnings, and one thread: the sum of floats then has one order."
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def gradients():
    """The next test has gradients. An interrupt that falls into torch's own `no_grad`, as around rotary embeddings,
    leaves them switched off in the process, with and without a recording."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)
