"""The explorers: what they draw is what an independent computation says, at every kind of setting; the widgets are a thin layer on it."""

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from course_lib import explore, plots
from course_lib.explore import panel
from course_lib.explore.panel import Choice, Slider
from matplotlib.patches import Rectangle

REPO = Path(__file__).resolve().parents[1]
MODULES = [getattr(explore, name) for name in explore.__all__]
pytestmark = pytest.mark.filterwarnings("error")


def name_of(module) -> str:
    return module.__name__.rpartition(".")[2]


def limited(module, setting: dict) -> dict:
    """The setting as the widget would make it: sliders that depend on others stand no further than they may."""
    limits = module.limits(**setting) if hasattr(module, "limits") else {}
    return {name: min(value, limits.get(name, value)) if name in limits else value for name, value in setting.items()}


def settings(module, count: int) -> list[dict]:
    """All controls at their start, at their lowest, at their highest; one control at a time at an end; and some settings at random."""
    controls = module.CONTROLS
    made = [{c.name: c.start for c in controls}, {c.name: c.values[0] for c in controls}, {c.name: c.values[-1] for c in controls}]
    made += [made[0] | {c.name: value} for c in controls for value in (c.values[0], c.values[-1])]
    chance = random.Random(0)
    made += [{c.name: chance.choice(c.values) for c in controls} for _ in range(count)]
    unique = {json.dumps(setting): limited(module, setting) for setting in made}
    return list(unique.values())


def cases(module, count: int = 12):
    """Parameters for a test: the settings of one explorer, readable as ids."""
    return [pytest.param(setting, id=", ".join(f"{v}" for v in setting.values())) for setting in settings(module, count)]


def numbers(ax) -> list[float]:
    """The numbers written into the cells of a map, in the order of the cells."""
    return [float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts]


def rectangles(ax) -> list[tuple[float, ...]]:
    """(row, column, height, width) of the frames on a map, in cells, in the order in which they were drawn."""
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return [(p.get_y() + 0.5, p.get_x() + 0.5, p.get_height(), p.get_width()) for p in found]


def heights(container) -> list[float]:
    return [bar.get_height() for bar in container]


def close(drawn, expected) -> bool:
    return np.allclose(np.asarray(drawn, dtype=float).ravel(), np.asarray(expected, dtype=float).ravel(), atol=1e-4, rtol=1e-4)


# ---- what holds of every explorer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_controls_start_where_they_can_stand(module):
    names = [control.name for control in module.CONTROLS]
    assert len(set(names)) == len(names)
    for control in module.CONTROLS:
        assert control.start in control.values and control.label
    start = {control.name: control.start for control in module.CONTROLS}
    assert limited(module, start) == start


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_drawing_is_a_pure_function(module):
    import matplotlib
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams), torch.get_rng_state(), plt.get_fignums()
    first, second = (panel.picture(module.figure(), module.describe()) for _ in range(2))
    assert first == second
    assert (dict(matplotlib.rcParams), plt.get_fignums()) == (before[0], before[2])
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_control_changes_picture_and_words(module):
    start = panel.started(module.CONTROLS)
    for control in module.CONTROLS:
        ends = [limited(module, start | {control.name: value}) for value in (control.values[0], control.values[-1])]
        drawn = [(panel.picture(module.figure(**setting), ""), module.describe(**setting)) for setting in ends]
        assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1], control.name


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_strip_is_at_least_two_frames_that_differ(module):
    fig = module.strip()
    assert len(fig.subfigs) >= 2
    titles = [part.get_suptitle() for part in fig.subfigs]
    assert all(titles) and len(set(titles)) == len(titles)
    assert plots._png(fig)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_unknown_controls_and_values_are_refused(module):
    with pytest.raises(ValueError, match="no control 'nonsense'"):
        module.figure(nonsense=1)
    name = module.CONTROLS[0].name
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        module.figure(**{name: -1000})


def test_explorers_give_no_answer_away():
    """No long line of a lab's solution stands in an explorer."""
    from course_lib.staff import leaks, sources

    text = "\n".join(path.read_text(encoding="utf-8") for path in (REPO / "course_lib" / "explore").glob("*.py"))
    lines = {" ".join(line.split()) for line in text.splitlines()}
    for topic in sources.topics(REPO):
        secrets = leaks.secret_lines(sources.read_cells(sources.topic_path(topic, REPO)))
        shared = {line for line, what in secrets.items() if what == "solution text" and len(line) >= leaks.LONG and line in lines}
        assert shared == set(), topic


def test_importing_explorers_costs_neither_widgets_nor_the_libraries_they_ask():
    code = "import sys, json\nfrom course_lib import explore\nprint(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert set(json.loads(out.stdout)) & {"ipywidgets", "torchvision", "scipy", "sklearn", "skimage", "IPython"} == set()


# ---- what each one draws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", cases(explore.convolution))
def test_convolution_draws_products_that_add_up_to_the_output(setting):
    from scipy.signal import correlate2d

    stride, padding, dilation = setting["stride"], setting["padding"], setting["dilation"]
    weights = explore.convolution.KERNELS[setting["kernel"]].numpy()
    fig = explore.convolution.figure(**setting)
    source, products, output = fig.axes
    padded = np.pad(explore.convolution.image().numpy(), padding)
    assert close(numbers(source), padded)

    holes = np.zeros((2 * dilation + 1, 2 * dilation + 1))  # the kernel with zeros between its weights
    holes[::dilation, ::dilation] = weights
    expected = correlate2d(padded, holes, mode="valid")[::stride, ::stride]
    assert close(numbers(output), expected)
    assert f"output {expected.shape[0]} × {expected.shape[1]}" == output.get_title(loc="left")

    framed = rectangles(output)
    assert framed == [(setting["row"], setting["column"], 1, 1)]
    terms = [re.match(r"(.+) × (.+)\n= (.+)", t.get_text().replace("\N{MINUS SIGN}", "-")).groups() for t in products.texts]
    read = [padded[int(y), int(x)] for y, x, *_ in rectangles(source)]  # the framed cells, row by row
    assert close([float(x) for x, _, _ in terms], read)
    assert close([float(w) for _, w, _ in terms], weights)
    assert all(float(x) * float(w) == float(product) for x, w, product in terms)
    result = sum(float(product) for *_, product in terms)
    assert result == expected[setting["row"], setting["column"]]
    assert f"is {panel_number(result)}, the sum" in fig.get_suptitle()
    assert f"= {panel_number(result)}." in explore.convolution.describe(**setting)


def panel_number(value: float) -> str:
    return f"{value + 0.0:g}".replace("-", "\N{MINUS SIGN}")


@pytest.mark.parametrize("setting", cases(explore.transposed))
def test_transposed_draws_stamps_that_are_added(setting):
    size, stride, padding, extra = (setting[name] for name in ("kernel_size", "stride", "padding", "output_padding"))
    x = explore.transposed.INPUTS[setting["input"]].numpy()
    row = {"ones": [1] * 4, "binomial": [[1], [1, 1], [1, 2, 1], [1, 3, 3, 1]][size - 1]}.get(setting["kernel"])
    kernel = np.outer(row[:size], row[:size]) if row else np.arange(1, size**2 + 1).reshape(size, size)
    canvas, hits = (np.zeros((2 * stride + size + extra,) * 2) for _ in range(2))
    for index in range(setting["printed"]):
        i, j = divmod(index, 3)
        canvas[i * stride : i * stride + size, j * stride : j * stride + size] += x[i, j] * kernel
        hits[i * stride : i * stride + size, j * stride : j * stride + size] += 1

    fig = explore.transposed.figure(**setting)
    source, stamp, key, drawn = fig.axes
    assert close(numbers(source), x)
    assert close(numbers(stamp), x[i, j] * kernel)
    assert close(numbers(drawn), canvas)
    assert close(drawn.images[0].get_array().data ** 2, hits)  # the colour: the root of the number of stamps
    assert close(key.images[0].get_array().data ** 2, numbers(key))
    printed, kept = rectangles(drawn)
    assert printed == (i * stride, j * stride, size, size)
    mask = torch.arange(9).reshape(3, 3) < setting["printed"]
    weight = torch.tensor(kernel, dtype=torch.float32)[None, None]
    library = F.conv_transpose2d((torch.tensor(x) * mask)[None, None], weight, None, stride, padding, extra)[0, 0]
    top, left, height, width = map(int, kept)
    assert close(canvas[top : top + height, left : left + width], library) and (height, width) == library.shape
    inside = hits[top : top + height, left : left + width]
    assert f"{inside.min():g} to {inside.max():g} stamps" in fig.get_suptitle()


def test_transposed_refuses_what_the_library_refuses():
    with pytest.raises(ValueError, match="output_padding must be smaller than stride 2"):
        explore.transposed.figure(output_padding=2)
    with pytest.raises(ValueError, match="padding 2 leaves nothing"):
        explore.transposed.figure(padding=2, kernel_size=1, stride=1)


@pytest.mark.parametrize("setting", cases(explore.roi))
def test_roi_draws_the_cells_and_samples_that_give_its_numbers(setting):
    stride, features = explore.roi.STRIDE, explore.roi.features().numpy()
    height, width = features.shape
    fig = explore.roi.figure(**setting)
    photograph, shown, pooled, aligned = fig.axes
    assert close(numbers(shown), features)
    *bins, window, box = rectangles(shown)
    top, left, down, across = (setting[name] / stride for name in ("top", "left", "height", "width"))
    assert box == pytest.approx((top, left, down, across))
    assert rectangles(photograph)[0] == pytest.approx(tuple(setting[name] for name in ("top", "left", "height", "width")), abs=0.51)

    def rounded(value: float) -> int:
        return math.floor(value + 0.5)

    assert window == (rounded(top), rounded(left), rounded(top + down) - rounded(top) + 1, rounded(left + across) - rounded(left) + 1)
    assert len(bins) == setting["rows"] * setting["columns"]
    for value, (y, x, h, w) in zip(numbers(pooled), bins):
        y, x, h, w = round(y - 0.08), round(x - 0.08), round(h + 0.16), round(w + 0.16)  # drawn a little smaller than they are
        assert window[0] <= y and y + h <= window[0] + window[2] and window[1] <= x and x + w <= window[1] + window[3]
        cells = features[y : y + h, x : x + w]  # ends at the border of the map
        assert value == (cells.max() if cells.size else 0)

    (dots,) = shown.lines
    x, y = dots.get_data()
    at = torch.tensor(np.stack([x / (width - 1), y / (height - 1)], axis=1), dtype=torch.float32) * 2 - 1
    sampled = F.grid_sample(explore.roi.features()[None, None], at[None, None], padding_mode="border", align_corners=True).flatten()
    blocks = sampled.reshape(setting["rows"], 2, setting["columns"], 2).mean((1, 3))
    assert np.abs(np.array(numbers(aligned)) - blocks.flatten().numpy()).max() <= 0.5001  # written without decimals


@pytest.mark.parametrize("setting", cases(explore.contrastive))
def test_contrastive_draws_the_softmax_and_descent(setting):
    temperature = setting["temperature"]
    angles = np.deg2rad([0, setting["positive"], setting["negative"], *explore.contrastive.OTHERS])

    def loss_at(angles) -> float:
        similarities = np.cos(angles[1:] - angles[0])
        return np.log(np.exp((similarities - similarities[0]) / temperature).sum())

    fig = explore.contrastive.figure(**setting)
    ring, bars = fig.axes
    similarities = np.cos(angles[1:])
    shares = np.exp((similarities - similarities.max()) / temperature)
    shares /= shares.sum()
    (container,) = bars.containers
    assert close(heights(container), sorted(shares, reverse=True))
    assert [patch.get_hatch() for patch in container].index("//") == sorted(similarities, reverse=True).index(similarities[0])
    assert bars.get_title(loc="left") == f"loss {loss_at(angles):.2f}, {shares[0]:.0%} for the positive"

    step = 1e-5  # slope of the loss along the ring, by central differences
    slopes = np.array([(loss_at(angles + step * e) - loss_at(angles - step * e)) / (2 * step) for e in np.eye(9)])
    pushes = explore.contrastive._numbers(**setting).pushes.numpy()
    assert np.allclose(pushes, -slopes[:, None] * np.stack([-np.sin(angles), np.cos(angles)], axis=1), atol=1e-6)
    (arrows,) = [artist for artist in ring.collections if hasattr(artist, "U")]
    directions = np.stack([arrows.U, arrows.V], axis=1)
    assert np.allclose(directions * np.abs(slopes).max(), 0.7 * pushes, atol=1e-6)  # all arrows at one scale
    hardest = np.abs(slopes[2:])[similarities[1:].argmax()] / np.abs(slopes[2:]).sum()
    assert f"gets {hardest:.0%} of their push" in fig.get_suptitle()


@pytest.mark.parametrize("setting", cases(explore.distillation))
def test_distillation_draws_probabilities_and_gradients(setting):
    temperature, digit = setting["temperature"], setting["digit"]
    teacher, student = (explore.distillation.logits(images)[digit].double() for images in (None, setting["images"]))
    fig = explore.distillation.figure(**setting)
    _, answers, pulls = fig.axes
    softened = [F.softmax(row / temperature, dim=0) for row in (teacher, student)]
    for container, expected in zip(answers.containers, softened):
        assert close(heights(container), expected)
    kl = F.kl_div(softened[1].log(), softened[0], reduction="sum").item()
    assert f"KL {kl:.3f}, T² KL {temperature**2 * kl:.2f}" in answers.get_title(loc="left")
    one_hot = F.one_hot(torch.tensor(digit), 10)
    for container, expected in zip(pulls.containers, [temperature * (softened[0] - softened[1]), one_hot - F.softmax(student, dim=0)]):
        assert np.allclose(heights(container), expected, atol=1e-4)
    assert f"gives {1 - softened[0][digit].item():.0%} to classes other than {digit}" in fig.get_suptitle()


def test_distillation_compares_two_classifiers_of_different_knowledge():
    teacher, student = explore.distillation.logits(), explore.distillation.logits(3)
    assert teacher.argmax(1).tolist() == list(range(10))
    assert student.argmax(1).tolist() != list(range(10))
    assert torch.equal(teacher, explore.distillation.logits(1000))


@pytest.mark.parametrize("setting", cases(explore.crf, count=6))
def test_crf_draws_mean_field_with_two_labels(setting):
    place, colour, spatial = (setting[f"theta_{name}"] for name in ("alpha", "beta", "gamma"))
    height, width = explore.crf.HEIGHT, explore.crf.WIDTH
    y, x = np.divmod(np.arange(height * width), width)
    pixels = explore.crf.photograph().flatten(1).T.double().numpy()
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    alike = ((pixels[:, None] - pixels) ** 2).sum(2)
    kernel = np.zeros((height * width,) * 2)
    for weight, exponent in [
        (setting["w_bilateral"], -near / (2 * place**2) - alike / (2 * colour**2)),
        (setting["w_spatial"], -near / (2 * spatial**2)),
    ]:
        np.fill_diagonal(exponent, -np.inf)
        gaussian = np.exp(exponent)
        sums = gaussian.sum(1)
        kernel += weight * gaussian / np.sqrt(np.outer(sums, sums))
    probs = explore.crf.coarse().flatten().double().numpy()
    unary = -np.log(np.stack([1 - probs, probs]))  # energies of background and flower
    q = np.stack([1 - probs, probs])
    for _ in range(setting["iterations"]):
        cost = unary + (q @ kernel.T)[::-1]  # Potts: each label pays for those who hold the other
        q = np.exp(-(cost - cost.min(0)))
        q /= q.sum(0)
    fig = explore.crf.figure(**setting)
    shown = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    assert np.allclose(shown[1].ravel(), probs)
    assert np.abs(shown[3].ravel() - q[1]).mean() < 1e-3
    row = kernel[explore.crf.PIXEL[0] * width + explore.crf.PIXEL[1]]
    assert np.allclose(shown[2].ravel(), row / max(row.max(), 1e-12), atol=1e-3)
    truth = explore.crf.truth().numpy().ravel()
    guess = shown[3].ravel() > 0.5
    assert fig.axes[3].get_title(loc="left").endswith(f"{(guess & truth).sum() / (guess | truth).sum():.2f}")


def test_crf_repairs_an_answer_and_can_spoil_it():
    refined = {name: explore.crf._numbers(**panel.started(explore.crf.CONTROLS, **s)) for name, s in [
        ("sensible", {}), ("blind to colour", dict(theta_beta=1.0)), ("silent", dict(w_bilateral=0.0, w_spatial=0.0)),
    ]}  # fmt: skip
    assert refined["sensible"].after > 0.95 > 0.92 > refined["blind to colour"].after > refined["silent"].after
    assert refined["silent"].after == refined["silent"].before


@pytest.mark.parametrize("perplexity", [2, 20, 60])
def test_tsne_affinities_have_the_perplexity(perplexity):
    """Against bisection, row by row."""
    images = explore.tsne.digits()[0].numpy()
    squares = ((images[:, None] - images) ** 2).sum(2)
    shares = np.zeros_like(squares)
    for i, row in enumerate(squares):
        others = np.delete(row, i)
        low, high = 1e-4, 1e4
        for _ in range(80):
            precision = math.sqrt(low * high)
            p = np.exp(-precision * (others - others.min()))
            p /= p.sum()
            entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
            low, high = (precision, high) if entropy > math.log(perplexity) else (low, precision)
        shares[i, np.arange(200) != i] = p
    expected = (shares + shares.T) / 200
    found = explore.tsne.affinities(perplexity).numpy()
    assert np.allclose(found, expected[np.triu_indices(200, 1)], atol=1e-7)
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("setting", [dict(iteration=0), dict(iteration=240), dict(iteration=40, start="PCA", perplexity=2),
                                     dict(iteration=240, start="PCA", perplexity=60)])
def test_tsne_draws_a_map_and_its_divergence(setting):
    setting = panel.started(explore.tsne.CONTROLS, **setting)
    fig = explore.tsne.figure(**setting)
    places, curve = fig.axes
    labels = explore.tsne.digits()[1].numpy()
    drawn = np.zeros((200, 2))
    for k, points in enumerate(places.collections):
        drawn[labels == k] = points.get_offsets()
    squares = ((drawn[:, None] - drawn) ** 2).sum(2)
    weights = (1 / (1 + squares))[np.triu_indices(200, 1)]
    p = explore.tsne.affinities(setting["perplexity"]).numpy()
    divergence = (p[p > 0] * np.log(p[p > 0] / (weights / weights.sum())[p > 0])).sum()
    assert curve.lines[1].get_ydata() == pytest.approx(divergence, rel=1e-3)
    assert len(curve.lines[0].get_xdata()) == setting["iteration"] / 10 + 1
    np.fill_diagonal(squares, np.inf)
    assert f"{(labels == labels[squares.argmin(1)]).mean():.0%} of the digits" in fig.get_suptitle()


def test_tsne_descends():
    _, values = explore.tsne.frames(20, "noise")
    assert values[-1] < 0.2 * values[0] and (values[10:].diff() < 0.01).all()


# ---- the widgets -------------------------------------------------------------------------------------------------------------------------


def toy(calls: list, **kept):
    """An explorer that writes down what it was asked to draw."""
    from matplotlib.figure import Figure

    controls = (Slider("size", "size of it", 1, 9, start=3), Slider("place", "place", 0.0, 1.0, start=0.5, step=0.25), Choice("kind", "kind", ("a", "b"), "a"))

    def figure(**setting):
        calls.append(setting)
        return Figure(figsize=(1, 1), layout="none")

    return panel.build(figure, lambda **setting: f'words "{setting}" & <more>', controls, **kept)


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def test_a_moved_control_draws_again_and_says_so():
    calls = []
    widget, handles = toy(calls)
    image = widget.children[-1]
    assert calls == [{"size": 3, "place": 0.5, "kind": "a"}]
    handles["size"].value = 4
    handles["kind"].value = "b"
    assert calls[1:] == [{"size": 4, "place": 0.5, "kind": "a"}, {"size": 4, "place": 0.5, "kind": "b"}]
    assert image.value.startswith('<img alt="words &quot;{&#x27;size&#x27;: 4') and "&amp; &lt;more&gt;" in image.value
    assert 'width="100" height="100"' in image.value and "data:image/png;base64," in image.value


def test_box_and_slider_are_one():
    calls = []
    widget, handles = toy(calls)
    boxes = {child.description: child for child in walk(widget) if type(child).__name__.startswith("Bounded")}
    assert set(boxes) == {"size of it", "place"}
    boxes["size of it"].value = 7
    assert handles["size"].value == 7 and calls[-1]["size"] == 7 and len(calls) == 2
    handles["place"].value = 0.75
    assert boxes["place"].value == 0.75 and len(calls) == 3
    boxes["size of it"].value = 100  # beyond its end
    assert handles["size"].value == 9
    count = len(calls)
    boxes["place"].value = 0.3  # between two steps
    assert handles["place"].value == boxes["place"].value == calls[-1]["place"] == 0.25 and len(calls) == count + 1
    handles["place"].value = 0.5000000000000001  # a browser adds steps up in floating point
    assert handles["place"].value == boxes["place"].value == calls[-1]["place"] == 0.5 and len(calls) == count + 2


def test_limits_move_dependent_sliders_and_draw_once():
    calls = []
    _, handles = toy(calls, limits=lambda size, place, kind: {"place": 1.0 if kind == "a" else 0.25})
    handles["place"].value = 1.0
    handles["kind"].value = "b"
    assert handles["place"].value == 0.25 and handles["place"].max == 0.25
    assert calls[2:] == [{"size": 3, "place": 0.25, "kind": "b"}]
    handles["kind"].value = "a"
    assert handles["place"].max == 1.0


def test_start_is_checked():
    calls = []
    _, handles = toy(calls, size=9, kind="b")
    assert calls == [{"size": 9, "place": 0.5, "kind": "b"}] and handles["size"].value == 9
    with pytest.raises(ValueError, match="place must be one of 0.0, 0.25, 0.5, 0.75, 1.0, got 0.3"):
        toy(calls, place=0.3)


def test_slider_values_are_exact():
    assert Slider("t", "t", 0.05, 0.3, start=0.1, step=0.05).values == (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    assert Slider("n", "n", 0, 300, start=0, step=100).values == (0, 100, 200, 300)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_widget_of_every_explorer(module):
    """Each control, moved to its ends, gives the picture of that setting; every box and button can be reached and has a name."""
    widget, handles = panel.build(module.figure, module.describe, module.CONTROLS, getattr(module, "limits", None))
    image = widget.children[-1]
    for control in module.CONTROLS:
        handles[control.name].value = control.values[0]
        shown = {name: handle.value for name, handle in handles.items()}
        assert image.value == panel.picture(module.figure(**shown), module.describe(**shown))
        handles[control.name].value = control.start
    for child in walk(widget):
        kind = type(child).__name__
        if kind.startswith("Bounded"):
            assert child.description and child.tabbable is not False
        elif kind == "ToggleButtons":
            assert all(child.options) and all(child.tooltips)
            assert child.tabbable is not False


def test_show_prints_words_without_a_notebook(capsys):
    explore.convolution.show(stride=2)
    assert capsys.readouterr().out.startswith("A digit of 6 × 7 cells with padding 0, the edge kernel, stride 2")


def test_show_in_a_notebook_has_a_text_for_readers_without_a_kernel(monkeypatch):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    explore.convolution.show()
    (data,) = shown
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert "kernel" in data["text/plain"]
