"""The small library shared by the notebooks of the course.

Importing the package imports nothing else: a notebook names the modules it uses, and pays only for those.
"""

__version__ = "0.1.0"
