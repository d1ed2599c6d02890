"A real JupyterLab server with a real kernel, and the few things a person does in it."

import json, os, secrets, shutil, signal, socket, subprocess, sys, time
import urllib.error, urllib.request
from pathlib import Path

SETTINGS = {  # what a person would click away or choose once
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are drawn too
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Lab:
    """A server of its own: its port, token, home and working folder are nobody else's.

    `lab.open(path)` copies a notebook into the working folder and opens it: a `Notebook`.
    """

    def __init__(self, folder, new_page):
        self.folder, self.new_page, self.token, self.port = (
            Path(folder),
            new_page,
            secrets.token_hex(16),
            free_port(),
        )
        self.work, self.log = self.folder / "work", self.folder / "server.log"
        self.work.mkdir()

    def start(self, seconds=90):
        home, settings = self.folder / "home", self.folder / "settings"
        for name, value in SETTINGS.items():
            file = settings / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(value))
        env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
        env |= {
            "HOME": str(home),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "IPYTHONDIR": str(home / "ipython"),
            "MPLCONFIGDIR": str(home / "mpl"),
        }
        env.pop("MPLBACKEND", None)  # the kernel's own: figures inline
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": self.port,
            "ServerApp.port_retries": 0,
            "ServerApp.allow_root": True,
            "ServerApp.open_browser": False,
            "ServerApp.root_dir": self.work,
            "IdentityProvider.token": self.token,
            "LabApp.user_settings_dir": settings,
            "LabApp.workspaces_dir": self.folder / "workspaces",
            "LabApp.extension_manager": "readonly",
            "LabApp.news_url": "",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())],
                cwd=self.work,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.time() + seconds
        while time.time() < deadline:
            if self.process.poll() is not None:
                break
            try:
                return self.get("api/status")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        self.stop()
        raise RuntimeError("JupyterLab did not start:\n" + self.log.read_text()[-3000:])

    def get(self, path):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def stop(self):
        "End the server, by its own process id; it ends its kernels."
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def open(self, path, copy=True, **options):
        if copy:
            shutil.copy2(path, self.work / Path(path).name)
        page = self.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{Path(path).name}?token={self.token}&reset")
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        notebook = Notebook(
            page, sum(cell["cell_type"] == "code" and bool("".join(cell["source"]).strip()) for cell in cells)
        )
        notebook.ready()
        return notebook


class Notebook:
    "A notebook that is open in JupyterLab. `notebook.page` is the browser's page, `notebook.cell(i)` its i-th cell."

    def __init__(self, page, code_cells):
        self.page, self.code_cells = page, code_cells

    def ready(self):
        "Wait until the kernel is there and idle."
        self.page.wait_for_selector(".jp-NotebookPanel-notebook .jp-Cell")
        self.page.wait_for_selector(
            ".jp-StatusBar-TextItem:has-text('| Idle')", timeout=90_000
        )  # what the page knows of the kernel

    def cell(self, i):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(i)

    def run_all(self, timeout=300):
        "Run > Run All Cells, and wait."
        self.page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        self.page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
        self.wait_idle(timeout)

    def wait_idle(self, timeout=300):
        "Wait until every code cell that holds something has run."
        self.page.wait_for_function(
            """expected => {
            const prompts = [...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell .jp-InputPrompt')].map(p => p.textContent.trim());
            return !prompts.includes('[*]:') && prompts.filter(p => /^\\[\\d+\\]:$/.test(p)).length >= expected
                && document.querySelector('.jp-NotebookPanel .jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle';
        }""",
            arg=self.code_cells,
            timeout=timeout * 1000,
        )

    def errors(self):
        "What cells raised, as text."
        return self.page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], "
            ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']:has-text('Traceback')"
        ).all_inner_texts()

    def pictures(self):
        "The sources of all pictures shown, in order."
        return self.page.evaluate(
            "[...document.querySelectorAll('.jp-OutputArea-output img')].map(i => i.src)"
        )

    def nudge(self, slider, key="ArrowRight"):
        "Move an ipywidgets slider (a locator) by one, with the keyboard."
        handle = slider.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        handle.focus()
        self.page.keyboard.press(key)

    def wait_pictures_change(self, before, timeout=60):
        self.page.wait_for_function(
            "before => { const now = [...document.querySelectorAll('.jp-OutputArea-output img')].map(i => i.src);"
            " return now.length >= before.length && now.join() !== before.join() }",
            arg=before,
            timeout=timeout * 1000,
        )
