"""Begin a topic: `course new TOPIC` writes a lecture and a lab of one small exercise, which build and pass every test as they are."""

from __future__ import annotations

from pathlib import Path

from course_lib.cli import CommandError
from course_lib.staff import ledger, sources
from course_lib.staff.sources import REPO

TEMPLATES = Path(__file__).parent / "templates"


class SkeletonError(CommandError):
    """The topic cannot be begun."""


def new(topic: str, root: Path = REPO, say=print) -> list[Path]:
    """Write the two sources of a topic that the ledger has and nobody has begun; returns their paths.

    Raises:
        UnknownTopic: the name is not NN_slug.
        SkeletonError: the ledger has no such topic, or one of its sources exists.
    """
    slug = sources.slug(topic)
    known = {entry.topic: entry for entry in ledger.load(root).topics}
    if topic not in known:
        raise SkeletonError(f"site/ledger.toml has no topic {topic!r}; enter it there first")
    targets = {"lecture": sources.lecture_path(topic, root), "lab": sources.topic_path(topic, root)}
    for path in targets.values():
        if path.exists():
            raise SkeletonError(f"{path.relative_to(root).as_posix()} exists already")
    title = known[topic].title
    words = {"NUMBER": topic[:2], "TOPIC": topic, "SLUG": slug}
    for name, path in targets.items():
        text = (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")
        text = text.replace("TITLE", title if name == "lab" else title[0].upper() + title[1:])
        for word, value in words.items():
            text = text.replace(word, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        say(f"wrote {path.relative_to(root).as_posix()}")
    say(f"Now: course build {topic}, and site/guides/authors.md.")
    return list(targets.values())
