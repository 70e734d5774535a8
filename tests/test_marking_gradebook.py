"""The gradebook holds what nbgrader itself would have put there, on any database."""

import os
import uuid

import marking_helpers as helpers
import nbformat
import pytest
from marking_helpers import QUICK, SLUG, TOPIC, state_of_gradebook, submit

from course_lib.staff.marking import assignment, gradebook, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="marks are written on Linux or macOS")
COURSE = "deep-learning-beyond-classification"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return helpers.make_course(tmp_path_factory.mktemp("gradebook") / "course")


@pytest.fixture(scope="module")
def lab(root):
    return assignment.load(TOPIC, root)


def test_items_of_a_lab(lab):
    assert [(i.name, i.title, i.points, i.kind, i.cell, i.answer) for i in lab.items] == [
        ("doubled", "double a list", 3.0, "exercise", "check_doubled", "exercise_doubled"),
        ("shifted", "shift a list", 2.0, "exercise", "check_shifted", "exercise_shifted"),
        ("growth", "say why", 2.0, "written", "written_growth", "written_growth"),
    ]
    assert lab.points == 7 and lab.hints == {
        "doubled/1": "You squared the numbers: twice as large is 2 * value.", "shifted/1": "An offset of 0 has to be refused.",
    }  # fmt: skip


def test_cells_are_those_that_generate_assignment_stores(lab, tmp_path):
    """nbgrader's own SaveCells on the same notebook, into a second gradebook."""
    from nbgrader.preprocessors import SaveCells

    ours, theirs = f"sqlite:///{tmp_path}/ours.db", f"sqlite:///{tmp_path}/theirs.db"
    with gradebook.opened(ours, COURSE) as book:
        gradebook.store_assignment(book, lab)
        gradebook.store_assignment(book, lab)  # twice is once
    with gradebook.opened(theirs, COURSE) as book:
        book.update_or_create_assignment(TOPIC)
    resources = {"nbgrader": {"notebook": SLUG, "assignment": TOPIC, "student": ".", "db_url": theirs}}
    SaveCells().preprocess(nbformat.from_dict(lab.notebook), resources)
    assert state_of_gradebook(ours) == state_of_gradebook(theirs)


def test_schema_is_the_one_nbgrader_makes(tmp_path):
    import subprocess

    from sqlalchemy import create_engine, inspect, text

    from nbgrader.api import Base, get_alembic_version

    url = f"sqlite:///{tmp_path}/g.db"
    with gradebook.opened(url, COURSE):
        pass
    engine = create_engine(url)
    with engine.connect() as connection:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    engine.dispose()
    try:
        assert version == [get_alembic_version()]
    except (OSError, subprocess.CalledProcessError):
        assert len(version) == 1 and version[0]


def test_nothing_of_a_student_is_stored_where_one_call_fails(lab, tmp_path):
    url = f"sqlite:///{tmp_path}/g.db"
    record = run.Record("ada", "k")
    with gradebook.opened(url, COURSE) as book:
        gradebook.store_assignment(book, lab)
        with pytest.raises(RuntimeError), book.db.no_autoflush, gradebook.transaction(book):
            book.update_or_create_student("ada")
            book.update_or_create_submission(TOPIC, "ada")
            raise RuntimeError
        assert [s.id for s in book.students] == []
        gradebook.store(book, lab, record, None, None, 0.0)
        assert [s.id for s in book.students] == ["ada"]
        assert book.db.commit.__func__ is type(book.db).commit, "nbgrader's own commit is back"


def test_points_that_no_grader_should_give_are_bounded(lab):
    from course_lib.checks.outcomes import Result

    item = lab.items[0]
    for earned, wanted in [(1e9, 3.0), (-5.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (2.5, 2.5), ("3", 0.0), (None, 0.0)]:
        record = run.Record("ada", "k", results=[vars(Result("any_list", "doubled", 3.0, earned, "passed"))])
        assert record.earned(item) == wanted


def test_penalty():
    from course_lib.staff.marking.late import DAY, LatePolicy, penalty

    assert penalty(8.0, 0, 10) == 0 and penalty(8.0, 1, 0) == 0 and penalty(0.0, 1, 10) == 0
    assert (
        penalty(8.0, 1, 10) == pytest.approx(0.8)
        and penalty(8.0, DAY, 10) == pytest.approx(0.8)
        and penalty(8.0, DAY + 1, 10) == pytest.approx(1.6)
    )
    assert penalty(8.0, 99 * DAY, 10) == 8.0
    assert (
        LatePolicy(percent_a_day=50.0).late_submission_penalty("ada", 4.0, 5.0) == 2.0
        and LatePolicy().late_submission_penalty("ada", 4.0, 5.0) is None
    )


def test_configuration_names_the_policy_that_nbgrader_itself_uses(root):
    from nbgrader.preprocessors import AssignLatePenalties

    from course_lib.staff.marking import late

    config = late.configuration(root)
    assert late.percent_a_day(config) == 0.0
    assert AssignLatePenalties(config=config).plugin_class is late.LatePolicy


def test_in_postgresql(root, tmp_path):
    """Set COURSE_TEST_POSTGRES to the URL of a server whose user may make databases, such as postgresql+psycopg://me@127.0.0.1/postgres."""
    server = os.environ.get("COURSE_TEST_POSTGRES")
    if not server:
        pytest.skip("COURSE_TEST_POSTGRES names no PostgreSQL server")
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    name = f"course_{uuid.uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    try:
        notebook = helpers.lab_notebook(root)
        folder = tmp_path / "teaching" / "submitted"
        for student, kind in [("ada", "right"), ("bob", "squared"), ("Zoë", "lenient")]:
            submit(folder, student, notebook, kind, "An answer.", "2026-10-01 10:00:00 UTC")
        for _ in range(2):
            run.grade(folder, TOPIC, root=root, factory=QUICK, db=url, say=lambda line: None)
        in_postgres = state_of_gradebook(url)
        run.grade(folder, TOPIC, root=root, factory=QUICK, out=tmp_path / "sqlite", say=lambda line: None)
        assert in_postgres == state_of_gradebook(f"sqlite:///{tmp_path}/sqlite/gradebook.db")
        assert in_postgres["Zoë"]["grades"]["check_doubled"][0] == 3.0
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()
