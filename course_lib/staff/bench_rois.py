"""Rows of `make bench` about the RoI operators of lab 12: how many times as long as torchvision they take."""

from __future__ import annotations

from course_lib.staff.bench import alternate, row


def bench_rows(repeats: int = 5, channels: int = 256, size: int = 50, num_rois: int = 300) -> list[str]:
    """Processor seconds of one thread for `roi_pool` and `roi_align`, forward and forward with backward, over those of torchvision.

    The map is 1 x channels x size x size at stride 16, the boxes are random, and the grid has 7 x 7 bins with 2 x 2 samples each.
    """
    import torch
    from torchvision import ops

    from course_lib.staff.sources import exercise_namespace

    torch.set_num_threads(1)
    namespace = exercise_namespace("12_roi_pooling")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, channels, size, size, generator=generator, requires_grad=True)
    corners = torch.rand(num_rois, 2, 2, generator=generator) * 16 * size
    rois = torch.cat([torch.zeros(num_rois, 1), corners.amin(1), corners.amax(1)], 1)
    arguments = {"roi_pool": ((7, 7), 1 / 16), "roi_align": ((7, 7), 1 / 16, 2, True)}
    cotangent = torch.randn(num_rois, channels, 7, 7, generator=generator)

    def forward(operator, name):
        with torch.no_grad():
            return operator(features, rois, *arguments[name])

    def forward_and_backward(operator, name):
        return torch.autograd.grad(operator(features, rois, *arguments[name]), features, cotangent)

    shape = f"1x{channels}x{size}x{size}, {num_rois} RoIs, 7x7"
    lines = []
    for name in arguments:
        for step, way in [("forward", forward), ("forward and backward", forward_and_backward)]:
            ours, library = alternate([lambda f=f: way(f, name) for f in (namespace[name], getattr(ops, name))], repeats)
            lines.append(row(f"{name:<9} {shape}, {step}", ours / library, f"torchvision: {library * 1e3:.1f} ms"))
    return lines
