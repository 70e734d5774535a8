"""Near-identical submissions: a hint where to look, not a verdict.

Short exercises have few right answers, so that honest ones look alike; the measure leaves out what was given and what many share, and calls
a pair near-identical only where nearly everything that is left agrees.

Source: Schleimer, Wilkerson, Aiken, "Winnowing: Local Algorithms for Document Fingerprinting", SIGMOD 2003.
"""

from __future__ import annotations

import io
import keyword
import re
import token
import tokenize
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

GRAM = 12  # tokens in a row that are one shingle: shorter ones are idioms
WINDOW = 6  # shingles of which the smallest hash is kept: a run of GRAM + WINDOW - 1 equal tokens is always seen
FEWEST = 8  # fingerprints; a shorter text has nothing that could be copied
COMMON = 0.2  # share of the class; what more of them have is the exercise's shape, not copying
LIKE = 0.8  # similarity from which a pair is listed
SKIPPED = {token.COMMENT, token.NL, token.NEWLINE, token.INDENT, token.DEDENT, token.ENDMARKER, token.ENCODING}
NAME = re.compile(r"[^\W\d]\w*|\d[\w.]*|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """Two submissions. `similarity` is the share of the smaller one's fingerprints that the other has, `shared` their number."""

    first: str
    second: str
    similarity: float
    shared: int
    word_for_word: bool


def tokens(source: str) -> list[str]:
    """A cell's tokens without comments, layout and the words of strings; names that the cell itself makes are all one name.

    So renaming variables, reflowing lines and rewriting comments change nothing. What is no Python is cut into words.
    """
    try:
        found = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in SKIPPED]
        words = [(t.type, t.string) for t in found]
    except (tokenize.TokenError, SyntaxError, ValueError):
        words = [(token.NAME if word[0].isalpha() or word[0] == "_" else token.OP, word) for word in NAME.findall(source)]
    own = _own_names(words)
    return ["S" if kind == token.STRING else "V" if kind == token.NAME and word in own else word for kind, word in words]


def _own_names(words: list[tuple[int, str]]) -> set[str]:
    """Names that are assigned, looped over or are parameters: those that stand before =, after `for`, or inside the brackets of a def."""
    own: set[str] = set()
    for index, (kind, word) in enumerate(words):
        if kind != token.NAME or keyword.iskeyword(word):
            continue
        before = words[index - 1][1] if index else ""
        after = words[index + 1][1] if index + 1 < len(words) else ""
        if before != "." and (after in ("=", ":=", "+=", "-=", "*=", "/=", ":", ",") or before in ("for", "as", ",", "lambda")):
            own.add(word)
    return own


def fingerprints(words: list[str]) -> set[int]:
    """Winnowed hashes of the shingles of a list of tokens."""
    shingles = [zlib.crc32("\0".join(words[i : i + GRAM]).encode("utf-8", "replace")) for i in range(len(words) - GRAM + 1)]
    return {min(shingles[i : i + WINDOW]) for i in range(max(len(shingles) - WINDOW + 1, min(len(shingles), 1)))}


def every_shingle(words: list[str]) -> set[int]:
    """All hashes, not winnowed: what is to be left out must be left out wherever the window falls."""
    return {zlib.crc32("\0".join(words[i : i + GRAM]).encode("utf-8", "replace")) for i in range(len(words) - GRAM + 1)}


def pairs(submissions: dict[str, dict[str, str]], given: Iterable[str], most: int = 50) -> list[Pair]:
    """Pairs of near-identical submissions, the most alike first.

    Args:
        submissions: for each student the text of their cells.
        given: text of the cells as they were handed out.
        most: pairs returned.
    """
    template = set().union(*(every_shingle(tokens(text)) for text in given)) if given else set()
    prints = {
        student: set().union(*(fingerprints(tokens(text)) for text in cells.values())) - template if cells else set()
        for student, cells in submissions.items()
    }
    counts = Counter(number for numbers in prints.values() for number in numbers)
    limit = max(3, COMMON * len(submissions))
    prints = {student: {n for n in numbers if counts[n] <= limit} for student, numbers in prints.items()}
    owners = defaultdict(list)
    for student, numbers in sorted(prints.items()):
        if len(numbers) >= FEWEST:
            for number in numbers:
                owners[number].append(student)
    shared = Counter((a, b) for students in owners.values() for i, a in enumerate(students) for b in students[i + 1 :])
    found = []
    for (a, b), count in shared.items():
        similarity = count / min(len(prints[a]), len(prints[b]))
        if similarity >= LIKE:
            same = _text(submissions[a]) == _text(submissions[b])
            found.append(Pair(a, b, similarity, count, same))
    found.sort(key=lambda pair: (-pair.similarity, -pair.shared, pair.first, pair.second))
    return found[:most]


def _text(cells: dict[str, str]) -> list[str]:
    return [" ".join(text.split()) for _, text in sorted(cells.items())]
