"""The one preprocessor of ours among nbgrader's that make a lab out of a solution notebook (listed in nbgrader_config.py)."""

from nbgrader.preprocessors import NbGraderPreprocessor

PRIVATE = "course_staff"  # key in a cell's metadata: who may see it; never in a lab


class DropStaffCells(NbGraderPreprocessor):
    """Drops the cells that only staff may see, and the private metadata of all others."""

    def preprocess(self, nb, resources):
        """`nb` without private cells and metadata, and the resources as they were."""
        nb.cells = [cell for cell in nb.cells if cell.metadata.get(PRIVATE) != "only"]
        for cell in nb.cells:
            cell.metadata.pop(PRIVATE, None)
        return nb, resources
