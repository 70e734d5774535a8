"""The course in a real browser: JupyterLab on this machine, a lecture, a lab and every explorer, by keyboard.

One server and one browser for the module. Skipped where no Chromium is installed; `.ci/run` installs it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from course_lib import explore
from course_lib.explore.panel import Choice
from course_lib.staff import sources

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing: it drives the browser")

REPO = Path(__file__).resolve().parents[1]
LECTURE, LAB = "lectures/01_convolution_arithmetic.ipynb", "labs/01_convolution_arithmetic/convolution_arithmetic.ipynb"
SECONDS = 300  # for anything to happen on a busy machine; nothing waits that long on an idle one
pytestmark = pytest.mark.slow


def find_chromium() -> str | None:
    """A Chromium or Chrome of this machine: on the PATH, in its usual place, or one that Playwright has installed."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome.exe"]
    places = [shutil.which(name) for name in names]
    places += ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"]
    places += [os.path.join(os.environ.get(folder, ""), "Google", "Chrome", "Application", "chrome.exe") for folder in ("PROGRAMFILES", "LOCALAPPDATA")]
    return next((place for place in places if place and os.path.isfile(place)), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """JupyterLab with settings, kernels and files of its own."""

    token = "course"

    def __init__(self, home: Path):
        self.files = home / "files"
        for name in (LECTURE, LAB):
            (self.files / name).parent.mkdir(parents=True)
            shutil.copy(REPO / name, self.files / name)
        self._explorers(self.files / "explorers.ipynb")
        settings = home / "settings" / "@jupyterlab"
        for name, values in {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # asks other hosts
            "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are on the page, not only those in sight
        }.items():
            path = settings / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run", "IPYTHONDIR": "ipython",
                   "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "HOME": "."}
        environment = os.environ | {variable: str(home / name) for variable, name in folders.items()}
        environment["PYTHONPATH"] = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        self.log = home / "jupyterlab.log"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0",
                   "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.files}",
                   "--LabApp.expose_app_in_browser=True"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)

    @staticmethod
    def _explorers(path: Path) -> None:
        """A notebook that shows every explorer."""
        lines = ["from course_lib import explore", *(f"explore.{name}.show()" for name in explore.__all__)]
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        cells = [nbformat.v4.new_code_cell(line) for line in lines]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)

    def wait_until_it_answers(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.base}/api/status?token={self.token}", timeout=10).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"JupyterLab does not answer:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        self.process.terminate()  # shuts its kernels down
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The server, and a browser on it."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium or Chrome found (Debian and Ubuntu: apt install chromium)")
    server = Server(tmp_path_factory.mktemp("browser"))
    try:
        server.wait_until_it_answers()
        sync_api.expect.set_options(timeout=SECONDS * 1000)
        with sync_api.sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
            server.browser = playwright.chromium.launch(executable_path=executable, args=flags)
            yield server
            server.browser.close()
    finally:
        server.stop()


@pytest.fixture
def open_notebook(lab):
    """A function that opens a notebook; at the end, no page of the test may have seen an error or asked another host."""
    pages = []

    def opened(name: str) -> "Notebook":
        notebook = Notebook(lab, name)
        pages.append(notebook)
        return notebook

    yield opened
    for notebook in pages:
        notebook.page.close()
        assert notebook.errors == [], "errors in the browser's console"
        assert notebook.foreign == [], "requests to other hosts"


class Notebook:
    """A notebook that is open in JupyterLab and has a kernel."""

    def __init__(self, lab: Server, name: str):
        self.errors, self.foreign = [], []
        self.page = lab.browser.new_page(viewport={"width": 1300, "height": 1000})
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        own = (lab.base, lab.base.replace("http", "ws"), "data:", "blob:")
        self.page.on("request", lambda request: None if request.url.startswith(own) else self.foreign.append(request.url))
        self.page.on("websocket", lambda socket: None if socket.url.startswith(own) else self.foreign.append(socket.url))
        self.page.goto(f"{lab.base}/lab/workspaces/{Path(name).stem}/tree/{name}?token={lab.token}")
        self.page.wait_for_function("window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 0")
        # The toolbar says idle before there is a kernel, and what one runs then is lost: wait until the kernel has said who it is.
        self.page.evaluate(
            """async () => { const context = window.jupyterapp.shell.currentWidget.sessionContext; await context.ready;
                            await context.session.kernel.info; await window.jupyterapp.shell.currentWidget.revealed; }"""
        )

    def stored_images(self) -> list[str]:
        """Alternative texts of the pictures on the page."""
        return self.page.eval_on_selector_all(".jp-OutputArea-output img", "images => images.map(image => image.alt)")

    def run_all(self) -> None:
        """Run every cell, from nothing; no output may be an error."""
        self._command("notebook:clear-all-cell-outputs")
        self._command("notebook:run-all-cells")
        self.page.wait_for_function(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.every(cell =>
                     cell.model.type != 'code' || !cell.model.sharedModel.getSource().trim() || cell.model.executionCount)"""
        )
        assert self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type == 'code')
                     .flatMap(cell => cell.model.outputs.toJSON()).filter(output => output.output_type == 'error')"""
        ) == []  # fmt: skip

    def cell(self, needle: str):
        """The first code cell whose text contains `needle`."""
        index = self.page.evaluate(
            "needle => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(cell =>"
            " cell.model.type == 'code' && cell.model.sharedModel.getSource().includes(needle))", needle,
        )  # fmt: skip
        assert index >= 0, f"no cell contains {needle!r}"
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')

    def write_and_run(self, cell, text: str) -> None:
        """Replace a cell's text with the keyboard, and run it."""
        cell.locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(text)
        self.run(cell)

    def run(self, cell) -> None:
        """Run a cell by Shift+Enter and wait until it has finished."""
        before = cell.locator(".jp-InputPrompt").first.inner_text()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        sync_api.expect(cell.locator(".jp-InputPrompt").first).not_to_have_text(before)
        sync_api.expect(cell.locator(".jp-InputPrompt").first).not_to_have_text("[*]:")

    def _command(self, name: str) -> None:
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); }", name)


def press(notebook: Notebook, widget, control, key: str) -> None:
    """Put the focus on a control by its label and press a key: the picture and its text must change, and the focus stay."""
    image = widget.locator(".widget-html img")
    image.wait_for()
    source, words = image.get_attribute("src"), image.get_attribute("alt")
    control.focus()
    notebook.page.keyboard.press(key)
    sync_api.expect(image).not_to_have_attribute("alt", words)
    changed = image.get_attribute("src") != source  # of these long texts no message should speak
    assert changed, "the text changed, and the picture did not"
    assert control.evaluate("element => document.activeElement === element"), "the focus went elsewhere"


def test_lecture_reads_without_running_and_its_explorer_follows_the_keyboard(open_notebook):
    notebook = open_notebook(LECTURE)
    notebook.page.locator('img[alt^="Input, nine products and output"]').wait_for()  # the strip, before anything has run
    assert notebook.page.get_by_text("Error displaying widget").count() == 0

    notebook.run_all()
    assert notebook.page.locator('img[alt^="Input, nine products and output"]').count() == 1
    widget = notebook.cell("explore.convolution.show()").locator(".jp-OutputArea-output .widget-vbox")
    press(notebook, widget, widget.get_by_label("stride", exact=True), "ArrowUp")
    sync_api.expect(widget.locator("img")).to_have_attribute("alt", explore.convolution.describe(stride=2))
    row = widget.get_by_label("output row", exact=True)  # at stride 2 there are two rows
    assert row.get_attribute("max") == "1"


@pytest.fixture(scope="module")
def starts() -> dict[str, str]:
    """What each explorer says at first."""
    return {name: getattr(explore, name).describe() for name in explore.__all__}


def test_every_explorer_follows_the_keyboard(open_notebook, starts):
    notebook = open_notebook("explorers.ipynb")
    notebook.run_all()
    for name, words in starts.items():
        widget = notebook.cell(f"explore.{name}.show()").locator(".jp-OutputArea-output .widget-vbox")
        sync_api.expect(widget.locator(".widget-html img")).to_have_attribute("alt", words)
        for control in getattr(explore, name).CONTROLS:
            if isinstance(control, Choice):
                other = next(value for value in control.values if value != control.start)
                press(notebook, widget, widget.get_by_title(f"{control.label}: {other}", exact=True), "Space")
            elif control.name != "output_padding" and (name, control.name) != ("tsne", "perplexity"):
                up = control.start < control.high
                press(notebook, widget, widget.get_by_label(control.label, exact=True), "ArrowUp" if up else "ArrowDown")
        handle = widget.locator(".noUi-handle").first
        press(notebook, widget, handle, "ArrowLeft" if handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax") else "ArrowRight")


def test_lab_names_a_mistake_then_passes_and_counts_the_points(open_notebook):
    cells = sources.read_cells(sources.topic_path("01_convolution_arithmetic", REPO))
    mistake = next(cell for cell in cells if cell.kind == "mistake" and cell.name == "output_size")
    answer = next(cell for cell in cells if cell.kind == "exercise" and cell.name == "output_size")
    points = next(exercise.points for exercise in sources.exercises(cells) if exercise.name == "output_size")

    notebook = open_notebook(LAB)
    notebook.run_all()  # nothing is filled in
    bar = notebook.cell("lab.progress()").get_by_role("progressbar")
    sync_api.expect(bar).to_have_attribute("aria-valuenow", "0")
    notebook.cell("explore.convolution.show()").locator(".widget-html img").wait_for()

    exercise, check = notebook.cell("def output_size("), notebook.cell('lab.points("output_size")')
    assert "YOUR CODE HERE" in exercise.inner_text()
    notebook.write_and_run(exercise, mistake.source)
    notebook.run(check)
    sync_api.expect(check).to_contain_text(f"Known mistake: {mistake.hint}")
    sync_api.expect(check).to_contain_text(f"0 of {points} points (wrong)")

    notebook.write_and_run(exercise, answer.source)
    notebook.run(check)
    sync_api.expect(check).to_contain_text(f"{points} of {points} points (passed)")
    assert "Known mistake" not in check.inner_text()
    notebook.run(notebook.cell("lab.progress()"))
    sync_api.expect(bar).to_have_attribute("aria-valuenow", str(points))
