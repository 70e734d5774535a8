"""The command `course`. Each subcommand imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys

FAILED, REFUSED = 1, 2  # exit status: the answer is no; the command could not be carried out


class CommandError(Exception):
    """Something that the user can put right: said in plain lines, without a traceback."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; what goes wrong is said in plain lines on stderr, with status 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("course: interrupted", file=sys.stderr)
        return 130
    except CommandError as error:
        print(f"course {options.command}: {error}", file=sys.stderr)
        return REFUSED
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "course_lib":
            raise
        print(f"course {options.command}: {error}; pip install -e '.[staff]' installs the staff's tools", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="course", description="Work with the course: check a lab, build notebooks, take measurements.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    words = "Run all checks of a lab; the exit status is 0 if all points were earned, 1 if not, 2 if the file is no lab."
    check = commands.add_parser("check", help="run all checks of your notebook", description=words)
    check.add_argument("notebook", help="the lab, a .ipynb file")
    check.set_defaults(run=_check)

    words = "Fetch a real data set for the full profile into data/cache: cifar10, cifar100, stl10, pets or voc2012. Needs a network, once."
    data = commands.add_parser("data", help="fetch a real data set for the full profile", description=words)
    data.add_argument("name", metavar="NAME")
    data.set_defaults(run=_data)

    words = "Make solution, lab and lecture notebooks from the text sources."
    build = commands.add_parser("build", help="staff: make notebooks from the text sources", description=words)
    build.add_argument("topics", nargs="*", metavar="TOPIC", help="such as 01_convolution_arithmetic (default: all)")
    words = "write nothing; fail where a stored notebook differs from its source or gives an answer away"
    build.add_argument("--check", action="store_true", help=words)
    build.set_defaults(run=_build)

    words = "Run the measure cells of a topic for all their seeds and store the numbers under data/measurements."
    measure = commands.add_parser("measure", help="staff: take the measurements of a topic", description=words)
    measure.add_argument("topic", metavar="TOPIC")
    measure.add_argument("--name", help="only this measurement")
    measure.set_defaults(run=_measure)

    words = "Write a lecture and a lab of one small exercise, which build and pass all tests, for a topic of the map."
    new = commands.add_parser("new", help="staff: begin a topic", description=words)
    new.add_argument("topic", metavar="TOPIC", help="such as 03_transfer_learning, in site/ledger.toml and not yet written")
    new.set_defaults(run=_new)

    words = "Build the readable course, static pages that need no network. Warnings are errors."
    site = commands.add_parser("site", help="staff: build the site", description=words)
    site.add_argument("--out", metavar="DIR", help="where the pages go (default: site/_build/html)")
    site.add_argument("--repository", metavar="OWNER/NAME", help="a public copy of the course on GitHub; pages link to it and to Binder")
    site.set_defaults(run=_site)
    _add_marking(commands)
    return parser


def _add_marking(commands) -> None:
    words = "Grade all submissions of a lab in a sandbox: gradebook, marks.csv, a page a student, a report of the class."
    grade = commands.add_parser("grade", help="staff: grade submissions", description=words)
    grade.add_argument("submissions", metavar="SUBMISSIONS", help="folder with STUDENT/LAB/notebook.ipynb, as nbgrader collects them")
    grade.add_argument("--lab", required=True, metavar="LAB", help="such as 01_convolution_arithmetic")
    grade.add_argument("--out", metavar="DIR", help="where marks go (default: the folder above SUBMISSIONS)")
    grade.add_argument("--db", metavar="URL", help="the gradebook, as an SQLAlchemy URL (default: gradebook.db in DIR)")
    grade.add_argument("--secret", metavar="FILE", help="the course's secret, made where there is none (default: course.secret in DIR)")
    grade.add_argument("--jobs", type=int, default=1, metavar="N", help="submissions at a time (default: 1)")
    grade.add_argument("--cluster", metavar="tcp://…", help="hand the submissions to the workers of this Dask scheduler")
    words = "run submissions with your own rights; for trying things out with code of yours"
    grade.add_argument("--unsafe-no-sandbox", action="store_true", help=words)
    grade.set_defaults(run=_grade)

    words = "Write marks.csv, feedback and class report once more, with the marks that were given by hand since."
    report = commands.add_parser("report", help="staff: marks and pages after grading by hand", description=words)
    report.add_argument("--lab", required=True, metavar="LAB")
    report.add_argument("--out", default=".", metavar="DIR", help="the folder that `course grade` wrote to (default: this one)")
    report.add_argument("--db", metavar="URL", help="the gradebook (default: gradebook.db in DIR)")
    report.set_defaults(run=_report)

    words = "Make the folder that students get of a lab, and note its due date in the gradebook."
    release = commands.add_parser("release", help="staff: make what students get", description=words)
    release.add_argument("lab", metavar="LAB")
    release.add_argument("folder", metavar="DIR", help="a new or empty folder")
    release.add_argument("--due", metavar="TIME", help="such as '2026-10-09 18:00 Europe/Berlin'; UTC where no zone is given")
    release.add_argument("--out", metavar="DIR", help="where the gradebook is or will be (default: the folder above DIR)")
    release.add_argument("--db", metavar="URL", help="the gradebook (default: gradebook.db there)")
    release.set_defaults(run=_release)


def _check(options) -> int:
    from course_lib.checks.notebook import run_notebook

    return 0 if run_notebook(options.notebook) else FAILED


def _data(options) -> int:
    from course_lib import real_data

    real_data.fetch(options.name)
    return 0


def _build(options) -> int:
    from course_lib.staff import build

    if not options.check:
        build.build(options.topics)
        return 0
    problems = build.check(options.topics)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print(f"{count}. If the sources are right, `course build` makes the rest.", file=sys.stderr)
        return FAILED
    print("All notebooks are what their sources make, and no lab gives an answer away.")
    return 0


def _measure(options) -> int:
    from course_lib.staff import measure

    measure.measure(options.topic, options.name)
    return 0


def _new(options) -> int:
    from course_lib.staff import skeleton

    skeleton.new(options.topic)
    return 0


def _site(options) -> int:
    from course_lib.staff import site

    site.build_site(options.out, options.repository)
    return 0


def _grade(options) -> int:
    from course_lib.staff.marking.run import grade

    fine = grade(options.submissions, options.lab, out=options.out, db=options.db, secret=options.secret, jobs=options.jobs,
                 cluster=options.cluster, unsafe=options.unsafe_no_sandbox)  # fmt: skip
    return 0 if fine else FAILED


def _report(options) -> int:
    from course_lib.staff.marking.run import again

    again(options.lab, options.out, db=options.db)
    return 0


def _release(options) -> int:
    from course_lib.staff.marking.release import release

    release(options.lab, options.folder, due=options.due, out=options.out, db=options.db)
    return 0


if __name__ == "__main__":  # python -m course_lib.cli: the module of this name, not its twin __main__, knows the errors
    from course_lib.cli import main as run

    sys.exit(run())
