"""Put the readable course together and build it: `course site`.

Pages are made of what the repository holds, nothing is executed:

    site/*.md, site/guides/*.md     landing page, guides, glossary, bibliography, as they are
    lectures/NN_slug.ipynb          a page a lecture, with its stored outputs
    solutions/NN_slug/slug.ipynb    a page a lab: statements, what stands in the student's cell, and the solution folded behind a click
    site/ledger.toml                the map and the coverage page
"""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from course_lib.cli import CommandError
from course_lib.staff import build, ledger, profiles, sources
from course_lib.staff.preprocess import PRIVATE
from course_lib.staff.sources import REPO

LOCAL_LAB = "http://localhost:8888/lab/tree"  # where `make lab` opens, unless the port is taken
WORDS_A_MINUTE = 200  # of an adult who reads to understand


class SiteError(CommandError):
    """The site could not be built; the message is what Sphinx said."""


def build_site(out: Path | None = None, repository: str | None = None, root: Path = REPO, say=print) -> Path:
    """Build the site and return the folder of its pages.

    Args:
        out: where the pages go (default: site/_build/html).
        repository: "owner/name" of a public copy of the course; pages then also link to it and to Binder.

    Raises:
        SiteError: a warning or an error of Sphinx. Warnings count: a broken link is one.
    """
    out = root / "site" / "_build" / "html" if out is None else Path(out)
    source = out.parent / "source"
    shutil.rmtree(source, ignore_errors=True)
    assemble(source, repository, root)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-d", str(out.parent / "doctrees"), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}, check=False)
    if done.returncode:
        raise SiteError((done.stdout + done.stderr).replace(f"{source}{os.sep}", "").strip())
    say(f"built {len(list(out.rglob('*.html')))} pages; open {out / 'index.html'}")
    return out


def assemble(source: Path, repository: str | None = None, root: Path = REPO) -> None:
    """Write the pages that Sphinx reads into the folder `source`, which must not exist yet."""
    shutil.copytree(root / "site", source, ignore=shutil.ignore_patterns("_build", "__pycache__", "ledger.toml"))
    book = ledger.load(root)
    present = [topic for topic in book.topics if topic.topic in {*sources.lectures(root), *sources.topics(root)}]
    for topic in present:
        at = build.paths(topic.topic, root)
        if at["lecture"].is_file():
            page = lecture_page(nbformat.read(at["lecture"], 4), topic, repository, root)
            _write(source / at["lecture"].relative_to(root), page)
            _copy(at["lecture"], source / "notebooks" / at["lecture"].name)
        if at["lab"].is_file():
            page = lab_page(nbformat.read(at["solution"], 4), nbformat.read(at["lab"], 4), topic, repository, root)
            _write(source / at["lab"].relative_to(root), page)
            _copy(at["lab"], source / "notebooks" / f"lab_{topic.number}_{at['lab'].name}")
    index = (source / "index.md").read_text(encoding="utf-8")
    for mark, text in (("%%MAP%%", cards(book, present, root)), ("%%CONTENTS%%", contents(book, present, root))):
        if mark not in index:
            raise SiteError(f"site/index.md has no line {mark}")
        index = index.replace(mark, text)
    (source / "index.md").write_text(index, encoding="utf-8")
    for guide in sorted((source / "guides").glob("*.md")):
        title, text = guide.read_text(encoding="utf-8").split("\n", 1)
        time = math.ceil(len(text.split()) / WORDS_A_MINUTE)
        guide.write_text(f"{title}\n\n:::{{div}} facts\nGuide · {time} minutes\n:::\n{text}", encoding="utf-8")
    landing_picture(source / "images" / "landing.png")
    (source / "coverage.md").write_text(coverage(book, root), encoding="utf-8")


# Pages of a topic -------------------------------------------------------------------------------------------------------------------------


def lecture_page(notebook, topic: ledger.Topic, repository: str | None = None, root: Path = REPO):
    """The lecture with a line of facts and links under its title."""
    notebook = copy.deepcopy(notebook)
    file = f"lectures/{topic.topic}.ipynb"
    time = ledger.minutes(topic.topic, root)["lecture"]
    facts = [f"Lecture {topic.number}", f"{time} minutes", *open_links(file, f"/notebooks/{topic.topic}.ipynb", repository)]
    if topic.topic in sources.topics(root):
        slug = sources.slug(topic.topic)
        facts.insert(2, f"[the lab](../labs/{topic.topic}/{slug}.ipynb)")
    _add_facts(notebook, facts)
    for cell in notebook.cells:
        _without_repository_links(cell, root)
        if cell.cell_type == "markdown" and topic.topic not in sources.topics(root):  # its lab is still to be written
            cell.source = re.sub(rf"\[([^\]]+)\]\(\.\./labs/{topic.topic}/[^)]*\)", r"\1", cell.source)
    return notebook


def lab_page(solution, lab, topic: ledger.Topic, repository: str | None = None, root: Path = REPO):
    """A lab to read: statement, the student's cell, then solution, other right answers and checks, each folded.

    Figures and numbers of demonstrations are the solution's. Panels of check cells are left out.
    """
    student = {cell.id: cell for cell in lab.cells}
    cells = []
    for cell in copy.deepcopy(solution.cells):
        marked = cell.metadata.get("nbgrader", {})
        if marked.get("solution") and not marked.get("grade"):  # an exercise
            cells.append(new_code_cell(student[cell.id].source, id=f"{cell.id}_stub"))
            cells.append(_folded_code("Show a solution", cell.source, f"{cell.id}_solution"))
        elif marked.get("solution"):  # a written answer
            cells.append(_folded_text("Show a model answer", cell.source, cell.id))
        elif marked.get("grade"):
            cells.append(_folded_code("Show the checks", cell.source, cell.id))
        elif cell.cell_type == "code" and "lab.progress()" == cell.source.strip():
            continue
        else:
            cells.append(cell)
    page = copy.deepcopy(solution)
    page.cells = cells
    for cell in cells:
        cell.metadata.pop("nbgrader", None)
        cell.metadata.pop(PRIVATE, None)
        _without_repository_links(cell, root)
    slug = sources.slug(topic.topic)
    file = f"labs/{topic.topic}/{slug}.ipynb"
    time = ledger.minutes(topic.topic, root)["lab"]
    facts = [f"Lab {topic.number}", f"{time} minutes", f"[the lecture](../../lectures/{topic.topic}.ipynb)"]
    _add_facts(page, facts + open_links(file, f"/notebooks/lab_{topic.number}_{slug}.ipynb", repository))
    note = "Figures on this page were made with the solution. Try each exercise in the notebook before you unfold one."
    page.cells.insert(1, new_markdown_cell(f":::{{note}}\n{note}\n:::", id="about_this_page"))
    return page


def open_links(file: str, download: str, repository: str | None) -> list[str]:
    """Links that open a notebook of the course: a download, the JupyterLab that `make lab` started, and where there is one the public copy."""
    links = [f"{{download}}`download <{download}>`", f"[open in your JupyterLab]({LOCAL_LAB}/{file})"]
    if repository:
        links.append(f"[open on GitHub](https://github.com/{repository}/blob/HEAD/{file})")
        links.append(f"[open in Binder](https://mybinder.org/v2/gh/{repository}/HEAD?labpath={file.replace('/', '%2F')})")
    return links


def _add_facts(notebook, facts: list[str]) -> None:
    title, rest = notebook.cells[0].source.split("\n", 1)
    notebook.cells[0].source = f"{title}\n\n:::{{div}} facts\n{' · '.join(facts)}\n:::\n{rest}"


def _folded_code(summary: str, source: str, name: str):
    return _folded_text(summary, f"```python\n{source}\n```", name)


def _folded_text(summary: str, text: str, name: str):
    return new_markdown_cell(f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>", id=name)


def _without_repository_links(cell, root: Path) -> None:
    """Links of a notebook into the repository that are no page of the site keep their words and lose their address."""
    if cell.cell_type == "markdown":
        cell.source = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:solutions|course_lib|tests|data)/[^)]*\)", r"\1", cell.source)


def _write(path: Path, notebook) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(nbformat.writes(notebook, version=4) + "\n", encoding="utf-8")


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def landing_picture(path: Path) -> None:
    """One scene and what is known about it, as the picture of the landing page."""
    import matplotlib.pyplot as plt
    import numpy as np

    from course_lib import scenes

    picture = scenes.render(scenes.sample(16, seed=0), 240)
    i = 13
    depth = picture.depth[i, 0].numpy()
    seen = np.where(np.isfinite(depth), depth, np.nan)
    masks = [plt.get_cmap("tab10")(mask[i].numpy())[..., :3] for mask in (picture.instance, picture.semantic)]
    normals = (picture.normals[i].permute(1, 2, 0).numpy() * [1, -1, -1] + 1) / 2
    shown = {"image": picture.images[i].permute(1, 2, 0).numpy(), "depth": seen, "normals": normals, "objects": masks[0], "kinds": masks[1]}
    fig, axes = plt.subplots(1, len(shown), figsize=(9, 2.1), layout="constrained")
    for ax, (title, panel) in zip(axes, shown.items()):
        ax.imshow(panel, cmap="viridis_r")
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    fig.savefig(path, dpi=150)
    plt.close(fig)


# Pages of the ledger ----------------------------------------------------------------------------------------------------------------------


def contents(book: ledger.Ledger, present: list[ledger.Topic], root: Path = REPO) -> str:
    """The tables of contents, a part each: lecture, then lab. They make the menu and the order of "next"."""
    lines = []
    for numeral, title in book.parts.items():
        pages = []
        for topic in (topic for topic in present if topic.part == numeral):
            if topic.topic in sources.lectures(root):
                pages.append(f"lectures/{topic.topic}")
            if topic.topic in sources.topics(root):
                pages.append(f"labs/{topic.topic}/{sources.slug(topic.topic)}")
        if pages:
            lines += ["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""]
    return "\n".join(lines)


def cards(book: ledger.Ledger, present: list[ledger.Topic], root: Path = REPO) -> str:
    """The map: a card a topic, part by part; a topic that is not written yet says so."""
    there = {topic.topic for topic in present}
    lines = []
    for numeral, title in book.parts.items():
        lines += [f"### {title if numeral == '0' else f'{numeral}. {title}'}", "", "::::{grid} 1 2 2 3", ":gutter: 2", ""]
        for topic in book.of_part(numeral):
            lines += [f":::{{grid-item-card}} {topic.number} {topic.title}"]
            if topic.topic in there:
                pages = {"lecture": f"lectures/{topic.topic}.ipynb", "lab": f"labs/{topic.topic}/{sources.slug(topic.topic)}.ipynb"}
                times = ledger.minutes(topic.topic, root)
                footer = " · ".join(f"[{name}]({pages[name]}) {time} min" for name, time in times.items())
            else:
                lines += [":class-card: planned"]
                footer = "planned"
            lines += ["", topic.builds, "", "```{card-footer}", footer, "```", ":::", ""]
        lines += ["::::", ""]
    return "\n".join(lines)


def coverage(book: ledger.Ledger, root: Path = REPO) -> str:
    """The page that says of each finished topic what is covered, where it is taught and exercised, and what knows the right answer."""
    lines = ["# What is covered", "", "What each finished topic teaches, the section that teaches it, the exercises that practise it, and what their",
             "checks compare an answer with. A test keeps this page true.", ""]  # fmt: skip
    for topic in book.topics:
        if not topic.complete:
            continue
        has_lab = topic.topic in sources.topics(root)
        count = f" Its lab knows {topic.mistakes} wrong answers by name." if has_lab else ""
        lines += [f"## {topic.number} {topic.title}", "", f"{topic.builds[0].upper()}{topic.builds[1:]}.{count}", ""]
        lines += ["| what | section of the lecture | exercises | judged by |", "| --- | --- | --- | --- |"]
        for row in topic.covers:
            exercises = ", ".join(f"`{name}`" for name in row.exercises)
            lines.append(f"| {row.what} | {row.section} | {exercises} | {row.oracle} |")
        if topic.claims:
            lines += ["", "Measured:", ""]
            lines += [f"- {claim.what} (`{claim.measurement}`, in the {claim.notebook})." for claim in topic.claims]
        lines += ["", *_records(topic, root), ""]
    return "\n".join(lines)


def _records(topic: ledger.Topic, root: Path) -> list[str]:
    """How long the topic's notebooks take and what they need, at both sizes."""
    lines = ["| notebook | quick, on a CPU | full, on a GPU |", "| --- | --- | --- |"]
    stored = profiles.load(root)
    at = build.paths(topic.topic, root)
    for name in ("lecture", "solution"):
        if at[name].is_file():
            records = stored.get(at[name].relative_to(root).as_posix(), {})
            quick, full = (_record(records.get(profile)) for profile in ("quick", "full"))
            on_gpu = bool(records.get("full", {}).get("gpu"))
            lines.append(f"| {name} | {quick or 'not recorded'} | {full if on_gpu else 'not yet run on a GPU'} |")
    return lines


def _record(record: dict | None) -> str:
    if record is None:
        return ""
    gpu = f", {record['gpu_memory_mb']} MB on {record['gpu']}" if record.get("gpu") else ""
    return f"{record['seconds']:.0f} s, {record['memory_mb']} MB{gpu}"
