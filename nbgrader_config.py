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

# The late policy, in one number: percent of the points earned that each day begun after the due date costs. 0 shows who was late and takes
# nothing off. `course report` brings marks up to a changed number.
c.LatePolicy.percent_a_day = 0.0
c.AssignLatePenalties.plugin_class = "course_lib.staff.marking.late.LatePolicy"  # what reads it, in nbgrader's own autograder too
