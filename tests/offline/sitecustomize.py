"""Python imports this at start, because the tests put its folder on PYTHONPATH: no process that they start reaches the network."""

import importlib.machinery
import importlib.util
import os
import sys

import no_network

_first = no_network.install()

# An environment may have a sitecustomize of its own, which this one has just hidden: run it too.
if _first:
    _here = os.path.dirname(os.path.abspath(__file__))
    _spec = importlib.machinery.PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != _here])
    if _spec is not None and _spec.loader is not None:
        _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
