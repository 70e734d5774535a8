"""The loop does what is written over it: every example once an epoch, the gradient step of the textbook, no bar without a reader."""

import io
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import training

pytestmark = pytest.mark.filterwarnings("error")


class SGD:
    """Gradient descent in two lines, because a first optimiser of torch.optim takes seconds to import."""

    def __init__(self, model: nn.Module, lr: float):
        self.parameters, self.lr = list(model.parameters()), lr

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for p in self.parameters:
            p -= self.lr * p.grad


def squared_error(outputs, targets):
    return (outputs - targets).square().mean()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 3))
def test_every_example_is_seen_once_an_epoch(count, batch_size, num_epochs):
    seen = []

    def loss_fn(outputs, targets):
        seen.append(targets.tolist())
        return outputs.mean() * 0 + targets.float().mean()

    model = nn.Linear(1, 1)
    losses = training.fit(
        model, torch.zeros(count, 1), torch.arange(count), loss_fn, SGD(model, 0.1),
        num_epochs=num_epochs, batch_size=batch_size, generator=seeded(),
    )  # fmt: skip
    steps = math.ceil(count / batch_size)
    assert len(losses) == len(seen) == num_epochs * steps
    assert losses == pytest.approx([sum(batch) / len(batch) for batch in seen])
    for start in range(0, len(seen), steps):
        epoch = seen[start : start + steps]
        assert sorted(sum(epoch, [])) == list(range(count))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_images_and_targets_stay_paired():
    def loss_fn(outputs, targets):
        assert torch.equal(outputs[:, 0], targets)
        return outputs.sum() * 0

    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    numbers = torch.arange(10.0)
    training.fit(model, numbers[:, None], numbers, loss_fn, SGD(model, 0.1), num_epochs=2, batch_size=3, generator=seeded())


def test_the_order_comes_from_the_generator_alone():
    def run(seed: int, global_seed: int) -> list[float]:
        torch.manual_seed(global_seed)
        model = nn.Linear(3, 1)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        x = torch.arange(24.0).reshape(8, 3) / 24
        before = torch.get_rng_state()
        losses = training.fit(model, x, x[:, :1], squared_error, SGD(model, 0.1), num_epochs=3, batch_size=2, generator=seeded(seed))
        assert torch.equal(torch.get_rng_state(), before)
        assert len(set(losses)) > 3
        return losses

    assert run(0, 1) == run(0, 2)
    assert run(0, 1) != run(1, 1)


def test_full_batch_steps_are_those_of_gradient_descent_by_hand():
    rng = np.random.default_rng(0)
    x, y, lr = rng.normal(size=(7, 3)), rng.normal(size=(7, 1)), 0.05
    model = nn.Linear(3, 1, bias=False).double()
    weight = model.weight.detach().numpy().T.copy()  # (3, 1)
    losses = training.fit(
        model, torch.from_numpy(x), torch.from_numpy(y), squared_error, SGD(model, lr),
        num_epochs=5, batch_size=7, generator=seeded(),
    )  # fmt: skip
    expected = []
    for _ in range(5):
        residual = x @ weight - y
        expected.append((residual**2).mean())
        weight -= lr * 2 / 7 * x.T @ residual
    assert losses == pytest.approx(expected, rel=1e-12)
    assert np.allclose(model.weight.detach().numpy().T, weight, rtol=1e-12)


@pytest.mark.slow
def test_it_finds_the_least_squares_solution_with_an_optimizer_and_a_scheduler_of_torch():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 3))
    y = x @ [[1.0], [-2.0], [0.5]] + 0.1 * rng.normal(size=(64, 1))
    model = nn.Linear(3, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=100 * 4)
    x_, y_ = torch.from_numpy(x), torch.from_numpy(y)
    training.fit(model, x_, y_, squared_error, optimizer, num_epochs=100, batch_size=16, generator=seeded(), scheduler=scheduler)
    assert scheduler.last_epoch == 400  # once a batch
    assert np.allclose(model.weight.detach().numpy().T, np.linalg.lstsq(x, y, rcond=None)[0], atol=5e-3)


def test_gradients_left_over_from_elsewhere_are_not_added():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    model.weight.grad = torch.full_like(model.weight, 100.0)
    x, y = torch.ones(1, 1), torch.zeros(1, 1)
    training.fit(model, x, y, squared_error, SGD(model, 0.25), num_epochs=1, batch_size=1, generator=seeded())
    assert model.weight.item() == 0.5  # 1 - 0.25 * 2 * 1


def test_it_trains_in_training_mode():
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)).eval()
    x, y = torch.arange(4.0)[:, None], torch.zeros(4, 2)
    training.fit(model, x, y, squared_error, SGD(model, 0.1), num_epochs=1, batch_size=2, generator=seeded())
    assert model.training and model[1].num_batches_tracked == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(3, 1)}, "images and targets must be as many, at least one, got 3 and 4"),
        ({"images": torch.zeros(0, 1), "targets": torch.zeros(0, 1)}, "got 0 and 0"),
        ({"num_epochs": 0}, "num_epochs and batch_size must be at least 1, got 0 and 2"),
        ({"batch_size": -1}, "got 1 and -1"),
    ],
)
def test_nonsense_is_refused(changed, message):
    model = nn.Linear(1, 1)
    arguments = {
        "model": model, "images": torch.zeros(4, 1), "targets": torch.zeros(4, 1), "loss_fn": squared_error,
        "optimizer": SGD(model, 0.1), "num_epochs": 1, "batch_size": 2, "generator": seeded(),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        training.fit(**(arguments | changed))


# ---------------------------------------------------------------- predict


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_do_not_change_a_prediction(count, batch_size):
    x = torch.arange(count * 2, dtype=torch.float64).reshape(count, 2)
    model = nn.Linear(2, 3).double()
    expected = x.numpy() @ model.weight.detach().numpy().T + model.bias.detach().numpy()
    got = training.predict(model, x, batch_size=batch_size)
    assert got.shape == (count, 3) and not got.requires_grad
    assert np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_predictions_are_made_in_evaluation_mode_and_every_mode_is_set_back():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[1].eval()  # frozen statistics inside a model that trains
    statistics = model[1].running_mean.clone()
    x = torch.arange(8.0).reshape(4, 2)
    assert torch.equal(training.predict(model, x), training.predict(model, x))  # no dropout
    assert torch.equal(model[1].running_mean, statistics)
    assert [module.training for module in model] == [True, False, True] and model.training


def test_the_mode_is_set_back_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        training.predict(model, torch.zeros(3, 5))
    assert model.training and model[0].training


def test_nothing_to_predict_is_refused():
    with pytest.raises(ValueError, match="images and batch_size must be at least 1, got 0 and 256"):
        training.predict(nn.Linear(1, 1), torch.zeros(0, 1))
    with pytest.raises(ValueError, match="got 2 and 0"):
        training.predict(nn.Linear(1, 1), torch.zeros(2, 1), batch_size=0)


# ---------------------------------------------------------------- the bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def with_kernel(monkeypatch, kernel) -> None:
    """As in a notebook whose front end does or does not let a cell ask for input; None: IPython without a kernel."""
    shell = SimpleNamespace(kernel=kernel) if kernel else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


@pytest.mark.parametrize(
    ("kernel", "terminal", "bar"),
    [
        (None, False, False),
        (None, True, True),
        (SimpleNamespace(_allow_stdin=True), False, True),
        (SimpleNamespace(_allow_stdin=False), False, False),
        (SimpleNamespace(_allow_stdin=False), True, False),
        (SimpleNamespace(), False, False),
    ],
)
def test_a_bar_only_where_somebody_watches(monkeypatch, kernel, terminal, bar):
    import tqdm.auto

    with_kernel(monkeypatch, kernel)
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(tqdm.auto, "tqdm", tqdm.std.tqdm)  # the one for terminals
    assert list(training.progress(range(3), "epochs")) == [0, 1, 2]
    assert ("epochs" in screen.getvalue()) == bar
