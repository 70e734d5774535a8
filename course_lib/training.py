"""Training as a plain loop. Nothing is hidden in it: copy it into a cell and change it where a lesson needs more."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn


def fit(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    num_epochs: int,
    batch_size: int,
    generator: torch.Generator,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[float]:
    """Train a model on shuffled minibatches.

    Args:
        model: is put in training mode and stays there.
        images: (N, ...) inputs; moved to the model's device one batch at a time.
        targets: (N, ...) what loss_fn compares the outputs with; moved likewise.
        loss_fn: loss_fn(outputs, targets) -> scalar, the mean over the batch.
        optimizer: over the model's parameters.
        num_epochs: passes over the data.
        batch_size: images a step; the last batch of an epoch is smaller where they do not divide.
        generator: on the CPU, decides the order; its state moves on.
        scheduler: of the learning rate, stepped once a batch.

    Returns:
        The loss of every step, in order: num_epochs * ceil(N / batch_size) numbers.

    Raises:
        ValueError: no images, not as many targets, or a count under 1.
    """
    if len(images) != len(targets) or len(images) == 0:
        raise ValueError(f"images and targets must be as many, at least one, got {len(images)} and {len(targets)}")
    if num_epochs < 1 or batch_size < 1:
        raise ValueError(f"num_epochs and batch_size must be at least 1, got {num_epochs} and {batch_size}")
    device = next(model.parameters()).device
    model.train()
    losses = []
    for _ in progress(range(num_epochs), "epochs"):
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            outputs = model(images[batch].to(device))
            loss = loss_fn(outputs, targets[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.detach())  # stays on the device: asking for the number would make a GPU wait
    return torch.stack(losses).tolist()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """The model's outputs for all images, computed in batches in evaluation mode. The mode is set back afterwards.

    Args:
        model: returns one tensor, (n, ...) for n images.
        images: (N, ...) inputs, N at least 1; moved to the model's device one batch at a time.
        batch_size: images at a time; it changes memory, not results.

    Returns:
        (N, ...) on the CPU, without gradients.

    Raises:
        ValueError: no images, or a batch size under 1.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(f"images and batch_size must be at least 1, got {len(images)} and {batch_size}")
    device = next(model.parameters()).device
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return torch.cat([model(batch.to(device)).cpu() for batch in images.split(batch_size)])
    finally:
        for module, mode in was_training.items():
            module.training = mode


def progress(items, what: str):
    """The items, with a bar where a person watches, in a terminal or a notebook; it vanishes at the end.

    A notebook that is executed to be stored or tested gets no bar, as times would differ from run to run. It is known by
    the front end: one with a person allows a cell to ask for input, nbclient and nbval do not.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    watched = sys.stderr.isatty() if kernel is None else getattr(kernel, "_allow_stdin", False)
    if not watched:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, leave=False)
