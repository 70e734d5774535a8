r"""Take the danger out of students' markdown before nbgrader stores and renders it.

Formgrader and nbgrader's feedback turn markdown into HTML unescaped, on the instructor's page and with the instructor's rights. Rather than
parsing markdown as one of its many dialects would, the few characters by which text becomes markup are set apart by a space: `<` before
what can begin a tag, `&` before what can be an entity, and the brackets of a link that leads anywhere but to http, https or mailto. A
space does this alike in text, in code and in formulas, where an escape would show or fail, and an answer stays as readable as it was.

MathJax follows links in formulas too, so the commands of TeX that make links, styles and classes lose their backslash.
"""

from __future__ import annotations

import re

TAG = re.compile(r"<(?=[a-zA-Z/!?])")
ENTITY = re.compile(r"&(?=#|[a-zA-Z][a-zA-Z0-9]*;)")
IMAGE = re.compile(r"!(?=\[)")
LINK = re.compile(r"\](?=\s*\()")
SAFE_LINK = re.compile(r"\]\((?:https?://|mailto:)[^\s<>\"'`\\(){}\[\]]*\)")
REFERENCE = re.compile(r"\](?=\s*:)")
COMMANDS = (
    r"href|url|require|csname|class|style|cssId|data|bbox|html\w*|begingroup|unicode|includegraphics|mmlToken|def|gdef|edef|xdef|let|"
    r"newcommand|renewcommand|newenvironment|renewenvironment|Newextarrow|DeclareMathOperator|DeclarePairedDelimiter\w*"
)
TEX = re.compile(rf"\\+(?=(?:{COMMANDS})(?![a-z]))")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def clean_markdown(text: str) -> str:
    """The same answer, unable to bring HTML, images or links other than plain ones to http, https and mailto."""
    text = CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = TEX.sub("", text)  # before the others: what it takes away must not bring together what they look for
    text = IMAGE.sub("! ", ENTITY.sub("& ", TAG.sub("< ", text)))
    kept, last = [], 0
    for match in re.finditer(r"\]", text):
        at = match.start()
        if (LINK.match(text, at) and not SAFE_LINK.match(text, at)) or REFERENCE.match(text, at):
            kept.append(text[last : at + 1] + " ")
            last = at + 1
    return "".join(kept) + text[last:]
