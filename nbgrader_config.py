"""The repository is an nbgrader course: `nbgrader generate_assignment NN_slug` makes the lab that `course build` makes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the preprocessor of ours is found without an installed package

c = get_config()  # noqa: F821  (traitlets hands it to the file)

c.CourseDirectory.course_id = "deep-learning-beyond-classification"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "labs"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "__pycache__", "*.pyc", ".*.progress.json", "*.py"]  # *.py: solution and mistakes

c.GenerateAssignment.preprocessors = [
    "course_lib.staff.preprocess.DropStaffCells",
    "nbgrader.preprocessors.LockCells",
    "nbgrader.preprocessors.ClearSolutions",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.CheckCellMetadata",
    "nbgrader.preprocessors.ComputeChecksums",
    "nbgrader.preprocessors.SaveCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
