"""Figures: their alternative text arrives in every front end, their bytes do not change, and they draw what they are given."""

import base64
import hashlib
import html
import io
import os
import re
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from course_lib import plots

pytestmark = pytest.mark.filterwarnings("error")
REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def pixels(fig) -> np.ndarray:
    """(H, W, 3) integers, as stored."""
    with Image.open(io.BytesIO(plots._png(fig))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def line_figure():
    fig, ax = plt.subplots()
    ax.plot([0, 1, 2], [0, 1, 4])
    return fig


# ---------------------------------------------------------------- show


def test_a_notebook_gets_an_image_with_its_text(monkeypatch):
    fig, published = line_figure(), []
    monkeypatch.setattr("IPython.get_ipython", lambda: "a shell")
    monkeypatch.setattr("IPython.display.display", lambda data, raw: published.append((data, raw)))
    plots.show(fig, alt='a "steep" curve <b>\n   from 0 to 4 & on')
    [(data, raw)] = published
    assert raw and set(data) == {"text/html", "text/plain"}
    assert data["text/plain"] == 'a "steep" curve <b> from 0 to 4 & on'
    alt, source = re.fullmatch(r'<img alt="([^"<>]*)" src="data:image/png;base64,([A-Za-z0-9+/=]+)">', data["text/html"]).groups()
    assert html.unescape(alt) == data["text/plain"]
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        assert image.format == "PNG" and image.size == (600, 400)
        assert not {"Software", "Date", "Creation Time"} & set(image.info)
    assert not plt.fignum_exists(fig.number)  # closed, so that nothing draws it a second time


def test_without_a_notebook_the_text_is_printed(capsys):
    fig = line_figure()
    plots.show(fig, alt="a curve")
    assert capsys.readouterr().out == "a curve\n"
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("alt", ["", "  \n", None, 3])
def test_a_figure_without_text_is_refused(alt):
    with pytest.raises(ValueError, match="alt must say in words what the figure shows"):
        plots.show(line_figure(), alt=alt)


@pytest.mark.slow
def test_an_executed_notebook_and_the_page_made_of_it_carry_the_text_and_no_progress_bar(monkeypatch):
    nbformat, nbclient, nbconvert = (pytest.importorskip(name) for name in ("nbformat", "nbclient", "nbconvert"))
    from bs4 import BeautifulSoup

    monkeypatch.setenv("PYTHONPATH", str(REPO), prepend=os.pathsep)
    source = """
        import matplotlib.pyplot as plt
        from course_lib import plots, training
        fig, ax = plt.subplots()
        assert list(training.progress(range(2), "steps")) == [0, 1]
        plots.show(fig, alt='empty "axes" & nothing else')
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(re.sub(r"(?m)^ +", "", source.strip()))])
    with warnings.catch_warnings(action="ignore"):  # other people's
        nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
        page, _ = nbconvert.HTMLExporter(template_name="lab").from_notebook_node(notebook)
    [output] = notebook.cells[0].outputs  # one, so no bar, and the inline back end did not show the figure again
    assert output.output_type == "display_data"
    assert output.data["text/plain"] == 'empty "axes" & nothing else'
    [image] = BeautifulSoup(page, "html.parser").select(".jp-OutputArea img")
    assert image["alt"] == 'empty "axes" & nothing else'
    assert image["src"].startswith("data:image/png;base64,")


# ---------------------------------------------------------------- bytes and style


def test_equal_figures_give_equal_bytes_also_in_another_process():
    code = (
        "import sys, hashlib\nimport matplotlib.pyplot as plt\nfrom course_lib import plots\n"
        "fig, ax = plt.subplots(); ax.plot([0, 1, 2], [0, 1, 4])\n"
        "sys.stdout.write(hashlib.sha256(plots._png(fig)).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=REPO).stdout
    here = plots._png(line_figure())
    assert here == plots._png(line_figure())
    assert hashlib.sha256(here).hexdigest() == there


def test_a_palette_changes_no_flat_colour_and_little_else():
    fig = line_figure()
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png")
    full = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    stored = pixels(fig)
    assert stored.shape == full.shape == (400, 600, 3)
    assert np.abs(stored - full).mean() < 0.5 and np.abs(stored - full).max() < 80  # out of 255, at the edges of letters
    for colour in ((255, 255, 255), (0, 0x72, 0xB2)):  # paper and C0
        assert np.array_equal((stored == colour).all(-1), (full == colour).all(-1))


def test_a_photograph_keeps_its_colours():
    colours = torch.rand(3, 120, 130, generator=torch.Generator().manual_seed(0))
    drawn = pixels(plots.image_row([colours], height=1.2))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10_000


def simulated(colour: str, matrix: np.ndarray) -> np.ndarray:
    """Linear light of a colour as somebody with a colour-vision deficiency sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)


def test_ours_reference_and_data_differ_for_colour_blind_readers():
    # Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1
    protan = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
    deutan = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
    for matrix in (np.eye(3), protan, deutan):
        a, b, c = (simulated(colour, matrix) for colour in (plots.OURS, plots.REFERENCE, plots.DATA))
        assert min(np.abs(a - b).max(), np.abs(a - c).max(), np.abs(b - c).max()) > 0.15


# ---------------------------------------------------------------- image_row


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.sampled_from([1, 3]))
def test_images_are_drawn_side_by_side_in_their_proportions(count, height, width, channels):
    fig = plots.image_row(torch.rand(count, channels, height, width), [f"image {i}" for i in range(count)])
    fig.canvas.draw()
    boxes = [ax.get_window_extent() for ax in fig.axes]
    assert len(boxes) == count
    for box in boxes:
        assert box.width / box.height == pytest.approx(width / height, rel=1e-6)
        assert box.height == pytest.approx(boxes[0].height)
        assert box.height > 0.9 * 220  # about as high as asked for: 2.2 inches at 100 pixels
    assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))
    for ax in fig.axes:  # nothing is cut off
        title = ax.title.get_window_extent()
        assert title.y1 <= fig.bbox.height
    plt.close(fig)


def test_rows_go_down_columns_to_the_right_and_channels_are_colours():
    image = torch.zeros(3, 2, 3)
    image[0, 0, 2] = 1  # red in the upper right corner
    image[2, 1, 0] = 1  # blue in the lower left one
    drawn = pixels(plots.image_row([image], height=2))
    red, blue = (np.argwhere((drawn == colour).all(-1)).mean(0) for colour in ([255, 0, 0], [0, 0, 255]))
    assert red[0] < blue[0] and red[1] > blue[1]


def test_grey_images_share_limits_unless_told_otherwise():
    dim, bright = torch.full((4, 4), 0.5), torch.linspace(0, 1, 16).reshape(1, 4, 4)
    assert [ax.images[0].get_clim() for ax in plots.image_row([dim, bright]).axes] == [(0, 1), (0, 1)]
    free = plots.image_row([bright * 0.5, bright * 3], limits=None)
    assert [ax.images[0].get_clim() for ax in free.axes] == [(0, 0.5), (0, 3)]


def test_unknown_pixels_stay_blank_and_do_not_move_the_limits():
    disparity = torch.tensor([[7.0, 60.0], [float("inf"), float("nan")]])
    fig = plots.image_row([disparity], limits=None)
    assert fig.axes[0].images[0].get_clim() == (7, 60)
    assert (pixels(fig)[-60:-40] == 255).all()  # the lower half is paper


def test_tensors_with_gradients_arrays_and_half_precision_are_drawn():
    grey = torch.rand(1, 3, 4)
    plots.image_row([grey.requires_grad_(), grey.detach().bfloat16(), grey.detach().numpy(), grey.detach()[0].bool()])


@pytest.mark.parametrize(
    ("images", "titles", "message"),
    [
        ([], None, "got 0 and 0"),
        ([torch.rand(2, 2)], ["a", "b"], "got 1 and 2"),
        ([torch.rand(4, 5, 3)], None, r"\(H, W\), \(1, H, W\) or \(3, H, W\), got \(4, 5, 3\)"),
        ([torch.rand(1, 1, 4, 4)], None, r"got \(1, 1, 4, 4\)"),
        ([torch.rand(3, 0, 4)], None, r"got \(3, 0, 4\)"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], None, "floating-point numbers from 0 to 1, got uint8"),
    ],
)
def test_images_that_cannot_be_drawn(images, titles, message):
    with pytest.raises(ValueError, match=message):
        plots.image_row(images, titles)


# ---------------------------------------------------------------- heat_map


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (torch.tensor([[1, -2, 0], [10, 3, 4]]), ["1", "-2", "0", "10", "3", "4"]),
        (torch.tensor([[1.0, 2.0]]), ["1", "2"]),
        (np.array([[0.125, 2.0]]), ["0.12", "2.00"]),
        (np.array([[True, False]]), ["1", "0"]),
        (np.array([[-0.001, 0.999]]), ["0.00", "1.00"]),
        (np.array([[np.nan, -np.inf, 1.5]]), ["nan", "-inf", "1.50"]),
        (np.array([[np.nan]]), ["nan"]),
        (np.zeros((2, 2)), ["0"] * 4),
    ],
)
def test_each_number_stands_in_its_cell(values, texts):
    fig, ax = plt.subplots()
    plots.heat_map(ax, values)
    pixels(fig)
    assert [t.get_text() for t in ax.texts] == texts
    rows, columns = values.shape
    assert [t.get_position() for t in ax.texts] == [(c, r) for r in range(rows) for c in range(columns)]
    assert len(ax.get_xticks()) == columns and len(ax.get_yticks()) == rows


@pytest.mark.parametrize("values", [np.arange(400.0).reshape(20, 20), np.linspace(-3, 3, 399).reshape(21, 19)])
def test_every_number_can_be_read(values):
    """The contrast of a number with its cell is at least 4.5 : 1, the level AA of the Web Content Accessibility Guidelines 2.1."""
    fig, ax = plt.subplots()
    plots.heat_map(ax, values)
    for text, number in zip(ax.texts, values.flatten()):
        rgb = np.array(ax.images[0].to_rgba(number)[:3])
        light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        assert ((light + 0.05) / 0.05 if text.get_color() == "black" else 1.05 / (light + 0.05)) > 4.5


def test_zero_is_white_between_the_signs():
    fig, ax = plt.subplots()
    plots.heat_map(ax, [[-1, 0, 4]])
    assert ax.images[0].get_clim() == (-4, 4)
    assert min(ax.images[0].to_rgba(0.0)) > 0.95
    fig, ax = plt.subplots()
    plots.heat_map(ax, [[1, 2, 4]], limits=(0, 8))
    assert ax.images[0].get_clim() == (0, 8)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((21, 20)), np.zeros((0, 3)), np.zeros((1, 2, 2))])
def test_only_small_matrices_get_numbers(values):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match="values must be a matrix of 1 to 400 numbers, got shape"):
        plots.heat_map(ax, values)


# ---------------------------------------------------------------- mean_curve


def test_mean_and_deviation_are_drawn_where_they_are():
    runs = np.random.default_rng(0).normal(size=(5, 4))
    fig, ax = plt.subplots()
    plots.mean_curve(ax, torch.arange(4), torch.from_numpy(runs), label="ours")
    plots.mean_curve(ax, range(4), runs[:1], label="once", color=plots.REFERENCE)
    line, single = ax.lines
    assert line.get_ydata() == pytest.approx([statistics.fmean(column) for column in runs.T])
    assert list(line.get_xdata()) == [0, 1, 2, 3] and np.array_equal(single.get_ydata(), runs[0])
    assert line.get_label() == "ours (5 seeds)" and single.get_label() == "once (1 seed)"
    assert line.get_color() == "C0" and single.get_color() == "C1"
    [band] = ax.collections  # one seed has none
    corners = band.get_paths()[0].vertices
    for x, column in enumerate(runs.T):
        low, high = corners[corners[:, 0] == x][:, 1].min(), corners[corners[:, 0] == x][:, 1].max()
        assert (low, high) == pytest.approx(
            (statistics.fmean(column) - statistics.stdev(column), statistics.fmean(column) + statistics.stdev(column))
        )


@pytest.mark.parametrize(("x", "runs"), [((4,), (5, 3)), ((4,), (4,)), ((4,), (0, 4)), ((2, 2), (5, 4))])
def test_curves_whose_shapes_do_not_fit(x, runs):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match="runs must be of shape"):
        plots.mean_curve(ax, np.zeros(x), np.zeros(runs), label="ours")
