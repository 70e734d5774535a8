"""Submissions on the workers of a Dask cluster: more machines than one.

The workers belong to the staff: they hold the same course, run the checks and are told the secret. What they are sent is a notebook's
bytes;
it runs in their own sandbox. A worker that dies takes nothing along: Dask gives its submissions to another.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from course_lib.cli import CommandError
from course_lib.staff.marking.submissions import Submission, read_bytes
from course_lib.staff.marking.workers import Graded, attempt

CONNECT = 20.0  # seconds
AHEAD = 3  # submissions under way or waiting for each thread of the cluster: more would only fill memory
DEATHS = 3  # of workers, after which a submission that was there each time is given up


class ClusterError(CommandError):
    """The cluster cannot be used."""


class Cluster:
    """Workers at the scheduler's address. A context manager.

    Args:
        address: such as "tcp://scheduler:8786".
        settings: picklable; `make_grader(settings)` makes a worker's grader.
        digest: of the lab's source here; a worker that holds another state of it refuses.
    """

    def __init__(self, address: str, settings: dict, digest: str) -> None:
        self.address, self.settings, self.digest = address, settings, digest

    def __enter__(self) -> Cluster:
        try:
            import dask
            from distributed import Client
        except ImportError:
            raise ClusterError("--cluster needs Dask: pip install -e '.[scale]'") from None
        import logging

        logging.getLogger("distributed").setLevel(logging.ERROR)
        dask.config.set({"distributed.scheduler.allowed-failures": DEATHS})
        try:
            self._client = Client(self.address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(f"no cluster at {self.address}: {str(error).splitlines()[0]}") from None
        if not self._client.scheduler_info()["workers"]:
            self._client.close()
            raise ClusterError(f"the cluster at {self.address} has no workers")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def run(self, submissions: Iterable[Submission], topic: str) -> Iterator[Graded]:
        """Each submission once, in the order in which they are done."""
        from distributed import as_completed

        waiting = iter(submissions)
        under_way: dict[Any, Submission] = {}
        threads = sum(worker["nthreads"] for worker in self._client.scheduler_info()["workers"].values())

        def submit_next() -> Any:
            submission = next(waiting, None)
            if submission is None:
                return None
            arguments = (self.settings, self.digest, topic, submission.path.name, read_bytes(submission))
            future = self._client.submit(grade_remotely, *arguments, pure=False, retries=0)
            under_way[future] = submission
            return future

        first = [future for _ in range(max(1, AHEAD * threads)) if (future := submit_next()) is not None]
        if not first:
            return
        finished = as_completed(first, loop=self._client.loop)
        for future in finished:
            submission = under_way.pop(future)
            try:
                result, why = future.result()
            except Exception as error:  # noqa: BLE001  (KilledWorker, or what a worker could not even start)
                result, why = None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'on a worker of the cluster'}"
            future.release()
            following = submit_next()
            if following is not None:
                finished.add(following)
            yield submission, result, why


_mine = threading.local()  # a grader for each thread of a worker


def grade_remotely(settings: dict, digest: str, topic: str, name: str, content: bytes) -> tuple[Any, str]:
    """Runs on a worker: one submission, in a file of its own."""
    from course_lib.staff.marking.assignment import source_digest
    from course_lib.staff.sources import REPO

    root = Path(settings.get("root") or REPO)
    try:
        if source_digest(topic, root) != digest:
            return None, f"the worker on {os.uname().nodename} holds another state of {topic}; bring its course up to date"
    except (OSError, ValueError) as error:
        return None, f"the worker on {os.uname().nodename} has no {topic}: {error}"
    with tempfile.TemporaryDirectory(prefix="submission-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            if getattr(_mine, "settings", None) != settings:
                if getattr(_mine, "grader", None) is not None:
                    _mine.grader.__exit__(None, None, None)
                _mine.grader = None
                _mine.grader = make_grader(settings).__enter__()
                _mine.settings = settings
        except CommandError as error:
            return None, str(error)
        return attempt(_mine.grader, path, topic)


def make_grader(settings: dict) -> Any:
    """The grader that settings describe: the core's, or for tests another ("factory": "module:function")."""
    if "factory" in settings:
        import importlib

        module, _, function = settings["factory"].partition(":")
        return getattr(importlib.import_module(module), function)(settings)
    from course_lib.staff.grading.judge import Grader
    from course_lib.staff.sources import REPO

    submissions = settings.get("submissions")
    return Grader(
        settings["secret"], topics=(settings["topic"],), root=Path(settings.get("root") or REPO), unsafe=settings["unsafe"],
        submissions=Path(submissions) if submissions else None,
    )  # fmt: skip
