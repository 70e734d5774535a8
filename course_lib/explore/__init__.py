"""Something to play with in every topic: `explore.convolution.show()` in a notebook, then drag, click or press the arrow keys."""

from course_lib.explore import contrastive, convolution, crf, distillation, roi, transposed, tsne

__all__ = ["contrastive", "convolution", "crf", "distillation", "roi", "transposed", "tsne"]
