"""`course grade` from end to end with a quick grader: what it leaves, what it refuses, and that no kill changes the outcome."""

import csv
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import marking_helpers as helpers
import pytest
from marking_helpers import QUICK, SLUG, TOPIC, files_of, state_of_gradebook, submit

from course_lib.cli import CommandError
from course_lib.staff.marking import gradebook, journal, run

MOMENTS = int(os.environ.get("COURSE_TEST_KILLS", "6"))  # at which a run is killed; more of them take longer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="marks are written on Linux or macOS")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return helpers.make_course(tmp_path_factory.mktemp("marking") / "course")


@pytest.fixture(scope="module")
def lab(root):
    return helpers.lab_notebook(root)


@pytest.fixture
def submitted(tmp_path, lab):
    """A small class: all kinds of answers, one late, one unreadable, one that is not there."""
    folder = tmp_path / "teaching" / "submitted"
    submit(folder, "ada", lab, "right", "Exponentially: $2^n$.", "2026-10-01 10:00:00 UTC")
    submit(folder, "bob", lab, "squared", "Fast <b>very</b>", "2026-10-03 12:30:00 UTC")
    submit(folder, "cleo", lab, "lenient")
    submit(folder, "dan", lab, "crash", "  ")
    submit(folder, "eve", lab, "empty")
    (folder / "fay" / TOPIC).mkdir(parents=True)
    (folder / "fay" / TOPIC / f"{SLUG}.ipynb").write_text("{ not json")
    (folder / "gus" / "91_other").mkdir(parents=True)
    return folder


def grade(submitted, root, **options):
    said = []
    fine = run.grade(submitted, TOPIC, root=root, factory=QUICK, say=said.append, **options)
    return fine, "\n".join(said)


def table(folder):
    with open(folder / "reports" / TOPIC / "marks.csv", newline="", encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


# ---- what a run leaves -----------------------------------------------------------------------------------------------------------------


def test_marks_pages_and_table(submitted, root):
    fine, said = grade(submitted, root, jobs=2)
    out = submitted.parent
    assert fine and "5 graded, 1 could not be read" in said and "fay: it is not JSON" in said
    rows = table(out)
    assert list(rows) == ["ada", "bob", "cleo", "dan", "eve", "fay"], "gus handed in another lab"
    assert {s: (r["doubled"], r["shifted"], r["growth"], r["total"]) for s, r in rows.items()} == {
        "ada": ("3", "2", "", "5"), "bob": ("0", "0", "", "0"), "cleo": ("3", "0", "0", "3"), "dan": ("0", "0", "0", "0"),
        "eve": ("0", "0", "0", "0"), "fay": ("0", "0", "0", "0"),
    }  # fmt: skip
    assert rows["ada"]["needs_hand_grading"] == "growth" and rows["eve"]["needs_hand_grading"] == ""
    assert rows["fay"]["could_not_be_read"].startswith("it is not JSON") and rows["ada"]["maximum"] == "7"
    made = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and "submitted" not in path.parts}
    students = ["ada", "bob", "cleo", "dan", "eve", "fay"]
    assert made == {
        "gradebook.db", "course.secret", "nbgrader_config.py", "grading/lock", f"grading/{TOPIC}/journal.jsonl",
        f"reports/{TOPIC}/marks.csv", f"reports/{TOPIC}/report.html",
        *(f"feedback/{s}/{TOPIC}/feedback.html" for s in students), *(f"autograded/{s}/{TOPIC}/{SLUG}.ipynb" for s in students),
    }  # fmt: skip
    assert (out / "course.secret").stat().st_mode & 0o777 == 0o600
    assert (out / "course.secret").read_text().strip() not in "".join(p.read_text() for p in out.rglob("*.jsonl"))


def test_a_second_run_grades_nothing_and_changes_nothing(submitted, root):
    grade(submitted, root)
    out = submitted.parent
    before, files, lines = (
        state_of_gradebook(f"sqlite:///{out}/gradebook.db"),
        files_of(out),
        (out / "grading" / TOPIC / "journal.jsonl").read_bytes(),
    )
    fine, said = grade(submitted, root)
    assert fine and "6 of them in an earlier run" in said
    assert state_of_gradebook(f"sqlite:///{out}/gradebook.db") == before and files_of(out) == files
    assert (out / "grading" / TOPIC / "journal.jsonl").read_bytes() == lines


def test_a_changed_submission_and_a_changed_lab_are_graded_again(submitted, root, lab, tmp_path):
    grade(submitted, root)
    submit(submitted, "bob", lab, "right", "Exponentially.")
    fine, said = grade(submitted, root)
    assert "5 of them in an earlier run" in said and table(submitted.parent)["bob"]["total"] == "5"
    other = helpers.make_course(tmp_path / "other")
    source = other / "solutions" / TOPIC / f"{SLUG}.py"
    source.write_text(source.read_text().replace("# That was the toy.", "# That was the toy, mended."))
    fine, said = grade(submitted, other)
    assert "earlier run" not in said


def test_a_lost_gradebook_is_filled_from_the_journal(submitted, root):
    grade(submitted, root)
    path = submitted.parent / "gradebook.db"
    before = state_of_gradebook(f"sqlite:///{path}")
    path.unlink()
    grade(submitted, root)
    assert state_of_gradebook(f"sqlite:///{path}") == before


def test_what_the_grader_failed_on_is_tried_again(submitted, root, lab):
    path = submit(submitted, "hal", lab, "right")
    text = path.read_text()
    path.write_text(text.replace("That was the toy.", "grader, raise"))
    fine, said = grade(submitted, root)
    assert not fine and "hal: RuntimeError: a fault of ours" in said
    row = table(submitted.parent)["hal"]
    assert row["doubled"] == "" and row["needs_hand_grading"] == "doubled shifted growth" and "grader failed" in row["could_not_be_read"]
    fine, said = grade(submitted, root)
    assert not fine, "it still fails"
    path.write_text(text)
    fine, said = grade(submitted, root)
    assert fine and table(submitted.parent)["hal"]["total"] == "5" and table(submitted.parent)["hal"]["needs_hand_grading"] == ""


def test_odd_folders_and_names(submitted, root, lab):
    strange = ["Zoë Ångström", "o'neil; drop table", "=1+1", "-rf", "<b>x</b>", "a" * 200, "line\nbreak", "\u202egpj.exe"]
    for name in strange:
        submit(submitted, name, lab, "right")
    os.makedirs(os.path.join(os.fsencode(submitted), b"caf\xe9", TOPIC.encode()))
    shutil.copy(
        submitted / "ada" / TOPIC / f"{SLUG}.ipynb",
        os.path.join(os.fsencode(submitted), b"caf\xe9", TOPIC.encode(), f"{SLUG}.ipynb".encode()),
    )
    (submitted / "link").symlink_to(submitted / "ada")
    (submitted / "sue" / TOPIC).mkdir(parents=True)
    (submitted / "sue" / TOPIC / f"{SLUG}.ipynb").symlink_to(submitted / "ada" / TOPIC / f"{SLUG}.ipynb")
    (submitted / "tom" / TOPIC / f"{SLUG}.ipynb").mkdir(parents=True)
    (submitted / "uma" / TOPIC).mkdir(parents=True)
    (submitted / "uma" / TOPIC / "Toy (1).ipynb").write_text("{}")
    (submitted / "vic").mkdir()
    (submitted / "vic" / TOPIC).write_text("a file in place of a folder")
    (submitted / "wes" / TOPIC).mkdir(parents=True)
    os.mkfifo(submitted / "wes" / TOPIC / f"{SLUG}.ipynb")
    submit(submitted, "xia", lab, "right", timestamp="yesterday, honestly")
    fine, said = grade(submitted, root)
    rows = table(submitted.parent)
    assert fine and rows["ada"]["total"] == "5"
    assert {s: rows[s]["could_not_be_read"] for s in ("sue", "tom", "uma", "vic", "wes")} == {
        "sue": "toy.ipynb is a link", "tom": "toy.ipynb is a folder", "uma": "toy.ipynb is missing; there is Toy (1).ipynb",
        "vic": "90_toy is a file, not a folder", "wes": "toy.ipynb is not a plain file",
    }  # fmt: skip
    assert "link" not in rows and rows["'=1+1"]["total"] == "5" and rows["'-rf"]["total"] == "5" and rows["caf\\xe9"]["total"] == "5"
    assert rows["line\\x0abreak"]["total"] == "5" and rows["\\x202egpj.exe"]["total"] == "5"
    assert [s for s in rows if s.startswith("aaaa")] and all(len(s) <= 128 for s in rows)
    assert "holds no time" in (submitted.parent / "feedback" / "xia" / TOPIC / "feedback.html").read_text()


# ---- marks by hand ---------------------------------------------------------------------------------------------------------------------


def by_hand(url, student, cell, score, comment=None, extra=None):
    """What formgrader does when an instructor enters a score."""
    from nbgrader.api import Gradebook

    with Gradebook(url, "deep-learning-beyond-classification") as book:
        found = book.find_grade(cell, SLUG, TOPIC, student)
        found.manual_score, found.extra_credit, found.needs_manual_grade = score, extra, False
        if comment:
            book.find_comment(cell, SLUG, TOPIC, student).manual_comment = comment
        book.db.commit()


def test_marks_by_hand_come_back_and_stay(submitted, root, lab):
    grade(submitted, root)
    out, url = submitted.parent, f"sqlite:///{submitted.parent}/gradebook.db"
    by_hand(url, "ada", "written_growth", 1.5, "The formula is <missing>.", extra=0.25)
    by_hand(url, "bob", "check_doubled", 1.0)
    said = []
    run.again(TOPIC, out, root=root, say=said.append)
    rows = table(out)
    assert rows["ada"]["growth"] == "1.75" and rows["ada"]["total"] == "6.75" and rows["ada"]["needs_hand_grading"] == ""
    assert rows["bob"]["doubled"] == "1" and rows["bob"]["total"] == "1"
    page = (out / "feedback" / "ada" / TOPIC / "feedback.html").read_text()
    assert "The formula is &lt;missing&gt;." in page and "6.75 of 7 points" in page
    submit(submitted, "cleo", lab, "right", "New.")  # somebody else's change touches nobody's marks
    grade(submitted, root)
    state = state_of_gradebook(url)
    assert state["ada"]["grades"]["written_growth"] == (None, 1.5, 0.25, False) and state["bob"]["grades"]["check_doubled"] == (
        0.0,
        1.0,
        None,
        False,
    )
    submit(submitted, "ada", lab, "right", "A better answer.", "2026-10-01 10:00:00 UTC")
    submit(submitted, "bob", lab, "right", "Fast <b>very</b>", "2026-10-03 12:30:00 UTC")
    grade(submitted, root)
    state = state_of_gradebook(url)
    assert state["ada"]["grades"]["written_growth"] == (None, 1.5, 0.25, True), "kept, and to be looked at again"
    assert state["ada"]["grades"]["check_doubled"] == (3.0, None, None, False)
    assert state["bob"]["grades"]["check_doubled"] == (3.0, 1.0, None, True)
    assert "written_growth" in state["bob"]["grades"] and state["bob"]["grades"]["written_growth"][3] is True


def test_late_submissions_show_and_cost_what_the_setting_says(submitted, root, tmp_path):
    grade(submitted, root)
    url = f"sqlite:///{submitted.parent}/gradebook.db"
    with gradebook.opened(url, "deep-learning-beyond-classification") as book:
        gradebook.set_due_date(book, TOPIC, run.parse_due("2026-10-01 12:00 +0200"))
    run.again(TOPIC, submitted.parent, root=root, say=lambda line: None)
    rows = table(submitted.parent)
    assert rows["ada"]["late"] == "" and rows["bob"]["late"] == str(2 * 1440 + 150) and rows["bob"]["penalty"] == "0"
    by_hand(url, "bob", "written_growth", 2.0)
    strict = helpers.make_course(tmp_path / "strict")
    with open(strict / "nbgrader_config.py", "a") as file:
        file.write("\nc.LatePolicy.percent_a_day = 10.0\n")
    run.again(TOPIC, submitted.parent, root=strict, say=lambda line: None)
    row = table(submitted.parent)["bob"]
    assert (row["points"], row["penalty"], row["total"]) == ("2", "0.6", "1.4"), "three days begun"
    assert state_of_gradebook(url)["bob"]["penalty"] == pytest.approx(0.6)
    page = (submitted.parent / "feedback" / "bob" / TOPIC / "feedback.html").read_text()
    assert "2 days 2 hours late, which costs 0.6 points" in page


# ---- killed at any point ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_kill_changes_the_outcome(submitted, root, tmp_path):
    """Killed before any of its effects on the disk, or at any time, and started again: the same gradebook, tables and pages."""
    secret = tmp_path / "secret"
    with helpers.Runs() as runs:
        for student in ("dan", "eve"):
            shutil.rmtree(submitted / student)
        status, effects = runs(submitted, root)
        assert status == 0 and effects > 150
        out = submitted.parent
        shutil.copy(out / "course.secret", secret)
        wanted, files = state_of_gradebook(f"sqlite:///{out}/gradebook.db"), files_of(out)
        choose = random.Random(7)
        points = sorted({0, 3, *choose.sample(range(effects), MOMENTS), effects - 1})
        kills = [{"kill_at": n} for n in points] + [{"seconds": choose.random() * 0.6} for _ in range(MOMENTS // 2)]
        killed = 0
        for number, kill in enumerate(kills):
            course = tmp_path / f"kill-{number}"
            shutil.copytree(submitted, course / "submitted", symlinks=True)
            if kill != {"kill_at": 3}:  # there the secret itself has still to be made
                shutil.copy(secret, course / "course.secret")
            status, _ = runs(course / "submitted", root, **kill)
            killed += status == -9
            if number % 3 == 0:  # and once more, somewhere else
                killed += runs(course / "submitted", root, kill_at=choose.randrange(effects))[0] == -9
            status, _ = runs(course / "submitted", root)
            assert status == 0, f"the run after {kill} fails"
            assert state_of_gradebook(f"sqlite:///{course}/gradebook.db") == wanted, kill
            assert {name for name in files_of(course)} == set(files), kill
            assert files_of(course) == files, kill
            leftovers = [p.name for p in course.rglob("*.new")]
            assert leftovers == [], kill
            shutil.rmtree(course)
        assert killed > MOMENTS


def test_a_torn_line_is_ignored_and_does_not_tear_the_next(tmp_path):
    path = tmp_path / "journal.jsonl"
    notes = journal.Journal(path)
    notes.graded(run.Record("ada", "k1"))
    notes.graded(run.Record("bob", "k1"))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        torn = journal.Journal(path)
        assert set(torn.records) <= {"ada", "bob"}
        torn.graded(run.Record("cleo", "k2"))
        read = journal.Journal(path)
        assert read.records == torn.records | {"cleo": run.Record("cleo", "k2")}


def test_two_runs_at_once_are_refused_and_a_stale_lock_is_not(submitted, root):
    lock = submitted.parent / "grading" / "lock"
    code = (
        "import fcntl, os, sys; os.makedirs(os.path.dirname(sys.argv[1])); file = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX); print(f'process {os.getpid()} on this machine', file=file, flush=True); print('held', "
        "flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=helpers.REPO, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CommandError, match=f"process {other.pid} on .* is at work here"):
            grade(submitted, root)
        assert not (submitted.parent / "gradebook.db").exists()
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    assert "process" in lock.read_text(), "the killed run's file is still there"
    assert grade(submitted, root)[0]


# ---- refused -----------------------------------------------------------------------------------------------------------------------------


def untouched(folder, before):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, o: o.update(topic="99_nothing"), "there is no lab '99_nothing'; there is 90_toy"),
        (lambda s, o: o.update(topic="../x"), "there is no lab"),
        (lambda s, o: o.update(folder=s / "none"), "No such file or directory"),
        (lambda s, o: o.update(folder=s / "ada" / TOPIC / f"{SLUG}.ipynb"), "not a folder"),
        (lambda s, o: o.update(folder=s / "gus"), "no submission of 90_toy; expected nbgrader's layout gus/STUDENT/90_toy/toy.ipynb"),
        (lambda s, o: o.update(jobs=0), "--jobs must be 1 or more"),
        (lambda s, o: o.update(db="nonsense"), "the gradebook 'nonsense' cannot be used"),
        (lambda s, o: o.update(db="oracle+nothing://me:hush@host/x"), "cannot be used"),
        (lambda s, o: o.update(db="postgresql+psycopg://me:hush@127.0.0.1:1/x?connect_timeout=2"), "cannot be used"),
        (lambda s, o: o.update(db=f"sqlite:///{s}/no/such/folder/g.db"), "there is no folder"),
        (lambda s, o: o.update(db=f"sqlite:///{s}/ada/{TOPIC}/{SLUG}.ipynb"), "file is not a database"),
        (lambda s, o: o.update(out=s / "ada" / TOPIC / f"{SLUG}.ipynb"), "not a folder"),
        (lambda s, o: o.update(factory="marking_helpers:missing"), "no bubblewrap here"),
        (lambda s, o: o.update(cluster="tcp://127.0.0.1:1", factory=None), "no cluster at tcp://127.0.0.1:1"),
    ],
)
def test_one_clear_line_and_nothing_written(submitted, root, monkeypatch, change, words):
    def missing(settings):
        raise CommandError("no bubblewrap here")

    monkeypatch.setattr(helpers, "missing", missing, raising=False)
    monkeypatch.setattr("course_lib.staff.marking.cluster.CONNECT", 0.5)
    before = sorted(p.relative_to(submitted.parent).as_posix() for p in submitted.parent.rglob("*"))
    options = {"folder": submitted, "topic": TOPIC, "factory": QUICK}
    change(submitted, options)
    with pytest.raises(CommandError) as caught:
        run.grade(options.pop("folder"), options.pop("topic"), root=root, say=print, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "hush" not in str(caught.value)
    assert untouched(submitted.parent, before)


def test_a_locked_and_a_read_only_database_are_refused(submitted, root, tmp_path):
    grade(submitted, root)
    path = submitted.parent / "gradebook.db"
    held = sqlite3.connect(path)
    held.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(CommandError, match="database is locked"):
            grade(submitted, root, db=f"sqlite:///{path}?timeout=0.1")
    finally:
        held.close()
    with pytest.raises(CommandError, match="readonly database"):
        grade(submitted, root, db=f"sqlite:///file:{path}?mode=ro&uri=true")
    assert grade(submitted, root)[0]


def test_a_gradebook_of_another_lab_is_refused(submitted, root, tmp_path):
    grade(submitted, root)
    other = helpers.make_course(tmp_path / "other")
    source = other / "solutions" / TOPIC / f"{SLUG}.py"
    source.write_text(source.read_text().replace('written="growth"', 'written="speed"'))
    with pytest.raises(CommandError, match="submissions of another 90_toy, with other cells"):
        grade(submitted, other)


def test_nothing_is_written_into_the_checkout(submitted, root):
    inside = root / "submitted"
    shutil.copytree(submitted, inside)
    try:
        with pytest.raises(CommandError, match="lies in the course's own folder"):
            grade(inside, root)
        with pytest.raises(CommandError, match="lies in the course's own folder"):
            grade(submitted, root, secret=root / "course.secret")
        assert sorted(p.name for p in root.iterdir()) == ["lectures", "nbgrader_config.py", "solutions", "submitted"]
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        (root / ".gitignore").write_text("/teaching/\n")
        assert grade(inside, root, out=root / "teaching")[0], "what git ignores may lie there"
    finally:
        for name in ("submitted", ".git", "teaching"):
            shutil.rmtree(root / name, ignore_errors=True)
        (root / ".gitignore").unlink(missing_ok=True)


def test_a_secret_that_others_can_read_is_refused(submitted, root):
    path = submitted.parent / "course.secret"
    path.write_text("0" * 64)
    path.chmod(0o644)
    with pytest.raises(CommandError, match="others can read"):
        grade(submitted, root)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(CommandError, match="32 characters"):
        grade(submitted, root)


def test_report_without_grading_is_refused(tmp_path, root):
    with pytest.raises(CommandError, match="nothing of 90_toy was graded here"):
        run.again(TOPIC, tmp_path, root=root)
    assert list(tmp_path.iterdir()) == []


def test_the_journal_survives_what_is_no_record(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        b'null\n[]\n{"format":1}\n{"format":2,"kind":"graded"}\n\x00\x00\xff\n{"format":1,"kind":"graded","record":{"who":1}}\n'
    )
    assert journal.Journal(path).records == {}
    assert json.loads(b"null") is None and Path(path).exists()


def test_formgrader_finds_the_lab_and_its_submissions(submitted, root):
    """By nbgrader's own interface, in the folder and with the configuration that grading leaves."""
    from nbgrader.apps.api import NbGraderAPI
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import PyFileConfigLoader

    grade(submitted, root)
    out = submitted.parent
    config = PyFileConfigLoader("nbgrader_config.py", str(out)).load_config()
    config.CourseDirectory.root = str(out)
    api = NbGraderAPI(CourseDirectory(config=config), config=config)
    assert api.get_source_assignments() == {TOPIC}
    found = {s["student"]: s["needs_manual_grade"] for s in api.get_notebook_submissions(TOPIC, SLUG)}
    assert found == {"ada": True, "bob": True, "cleo": False, "dan": False, "eve": False, "fay": False}
