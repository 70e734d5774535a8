"""Submissions on processes of this machine: threads of ours, each with a grader whose work is done in a process of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from course_lib.cli import CommandError
from course_lib.staff.marking.submissions import Submission


class Grader(Protocol):
    """What `course_lib.staff.grading.judge.Grader` is: a context manager that grades one notebook after the other."""

    def __enter__(self) -> Grader: ...

    def __exit__(self, *exc: object) -> None: ...

    def grade(self, path: Any, topic: str) -> Any: ...


Graded = tuple[Submission, Any, str]  # submission, `SubmissionResult` or None, why there is none


class Threads:
    """`jobs` graders, started together. A context manager; entering raises what starting a grader raises.

    Args:
        make: makes one grader.
        jobs: how many work at a time.
    """

    def __init__(self, make: Callable[[], Grader], jobs: int) -> None:
        self._make, self._jobs = make, jobs
        self._graders: list[Grader] = []

    def __enter__(self) -> Threads:
        failed: list[BaseException] = []

        def start() -> None:
            try:
                self._graders.append(self._make().__enter__())
            except BaseException as error:  # noqa: BLE001  (raised again below, in the thread that asked)
                failed.append(error)

        starting = [threading.Thread(target=start, daemon=True) for _ in range(self._jobs)]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        if failed:
            self._close()
            raise failed[0]
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self._close()  # after an interrupt threads still use them: they end with this process

    def _close(self) -> None:
        for grader in self._graders:
            grader.__exit__(None, None, None)
        self._graders = []

    def run(self, submissions: Iterable[Submission], topic: str) -> Iterator[Graded]:
        """Each submission once, in the order in which they are done. A grader that fails on one goes on with the next."""
        todo: queue.SimpleQueue = queue.SimpleQueue()
        done: queue.SimpleQueue = queue.SimpleQueue()
        count = 0
        for submission in submissions:
            todo.put(submission)
            count += 1
        for _ in self._graders:
            todo.put(None)

        def work(grader: Grader) -> None:
            while (submission := todo.get()) is not None:
                done.put((submission, *attempt(grader, submission.path, topic)))

        threads = [threading.Thread(target=work, args=(grader,), daemon=True) for grader in self._graders]
        for thread in threads:
            thread.start()
        for _ in range(count):
            yield done.get()
        for thread in threads:
            thread.join()


def attempt(grader: Grader, path: Any, topic: str) -> tuple[Any, str]:
    """(result, "") or (None, why the grader itself failed)."""
    try:
        return grader.grade(path, topic), ""
    except CommandError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001  (one submission must not stop the others)
        return None, f"{type(error).__name__}: {error}"
