"""Written answers reach an instructor's page without scripts, images, handlers or foreign links, however they were written."""

import re
from html.parser import HTMLParser

import marking_helpers as helpers
import nbformat
import pytest
from marking_helpers import TOPIC

from course_lib.staff.marking import assignment, autograded
from course_lib.staff.marking.clean import clean_markdown
from course_lib.staff.marking.record import Record

HOSTILE = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<<script>alert(1)//<</script>",
    "<div\nonmouseover='alert(1)'>text</div>",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe src=//evil.example></iframe><style>*{display:none}</style><base href=//evil.example>",
    "<!-- --><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php <script>alert(1)</script> ?>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x]( javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](java&#115;cript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x](javascript\\:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example)",
    "[x](https://good.example' onmouseover='alert(1))",
    '[x](https://good.example" onmouseover="alert(1))',
    "[x]\n(javascript:alert(1))",
    "[x][1]\n\n[1]: javascript:alert(1)",
    "[x]\n\n[x]: javascript:alert(1)",
    "[x][1]\n\n[1]:\n  data:text/html;base64,PHNjcmlwdD4=",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    '![x](x" onerror="alert(1))',
    "![x][p]\n\n[p]: https://evil.example/pixel.png",
    "[![x](https://evil.example/p.png)](javascript:alert(1))",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "`<script>alert(1)</script>` and ```<img src=x onerror=alert(1)>```",
    "```html\n<script>alert(1)</script>\n```\n</code></pre><script>alert(1)</script>",
    "$<img src=x onerror=alert(1)>$",
    "$$\\text{</span><script>alert(1)</script>}$$",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\h\\href ref{javascript:alert(1)}{x}$ $\\\\href{javascript:alert(1)}{y}$",
    "$\\require{html}\\style{position:fixed}{x}\\class{evil}{y}\\cssId{z}{w}$",
    "$\\def\\x{1}\\let\\y\\href \\csname href\\endcsname{javascript:alert(1)}{x}$",
    "<\\def img src=x onerror=alert(1)>",
    "<\\hrefscript>alert(1)</\\hrefscript>",
    "# <img src=x onerror=alert(1)>\n\n* <b onclick=alert(1)>x</b>\n\n| a | <i onfocus=alert(1)> |\n|---|---|\n| [x](javascript:1) | y |",
    "- [ ] <input onfocus=alert(1) autofocus>",
    "[^1]\n\n[^1]: <script>alert(1)</script>",
    "</div></div></body><script>alert(1)</script>",
    "\u202e<script>\u2028alert(1)</script>",
    "{{ config }} {% raw %}<script>alert(1)</script>",
]


class Found(HTMLParser):
    """Everything in a page that acts, loads or leads somewhere."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.bad, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag in (
            "script",
            "iframe",
            "object",
            "embed",
            "base",
            "style",
            "form",
            "input",
            "link",
            "meta",
            "img",
            "svg",
            "video",
            "audio",
            "math",
        ):
            self.bad.append(tag)
        if tag == "input" and dict(attributes).keys() <= {"class", "type", "disabled", "checked"}:
            self.bad.remove("input")  # a box of a task list, which nobody can tick
        for name, value in attributes:
            if name.startswith("on") or name in ("style", "srcdoc", "formaction", "xlink:href"):
                self.bad.append(f"{tag} {name}={value}")
            if name in ("href", "src") and not re.match(r"(https?://|mailto:|#)", (value or "").strip()):
                self.bad.append(f"{tag} {name}={value}")

    def handle_data(self, data):
        self.text.append(data)


def rendered(text):
    """A markdown cell as nbgrader's formgrader and feedback render it."""
    from nbconvert.filters import markdown2html

    return markdown2html(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_acts_in_a_cleaned_answer(text):
    html = rendered(clean_markdown(text))
    assert Found(html).bad == [], html
    assert not re.search(r"\\(href|require|class|style|cssId|def|let|csname)(?![a-z])", html)
    again = clean_markdown(clean_markdown(text))
    assert Found(rendered(again)).bad == []


def test_the_renderer_is_one_that_has_to_be_guarded():
    """If this fails one day, nbconvert escapes by itself; cleaning then costs nothing."""
    assert Found(rendered("<script>alert(1)</script> <img src=x onerror=alert(1)>")).bad


def test_plain_answers_stay_as_they_are():
    answer = (
        "# Growth\n\nIt is **exponential**: after $n$ steps $2^n x$, since $a < b$ and 3 < 4 & 5 > 2.\n\n"
        "1. see [the paper](https://arxiv.org/abs/1706.03762) or [write me](mailto:a@b.example)\n2. `x[0] = y[1]` and\n\n"
        "```python\nfor i in range(3):\n    print(x[i])\n```\n\n$$\\begin{aligned} f(x) &= \\frac{1}{2} \\\\ &\\le 3 "
        "\\end{aligned}$$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    assert clean_markdown(answer) == answer
    html = rendered(clean_markdown(answer))
    assert 'href="https://arxiv.org/abs/1706.03762"' in html and 'href="mailto:a@b.example"' in html and "<table>" in html


def test_a_hostile_submission_in_the_page_that_formgrader_makes(tmp_path):
    """The whole page, by formgrader's own template, of a student who tried everything at once."""
    from nbconvert.exporters import HTMLExporter
    from nbgrader.server_extensions.formgrader import handlers
    from traitlets.config import Config

    from course_lib.checks.outcomes import ERROR, Result

    lab = assignment.load(TOPIC, helpers.make_course(tmp_path / "course"))
    evil = "</pre></div><script>alert('mine')</script><img src=x onerror=alert('mine')>"
    result = Result("by_hand", "doubled", 1.0, 0.0, ERROR, message=f"ValueError: {evil}", case=evil, got=evil, doc="Doc.",
                    line={"function": evil, "number": 2, "text": evil})  # fmt: skip
    record = Record("mallory", "k", results=[vars(result)], written={"growth": "\n\n".join(HOSTILE)}, notes=[evil],
                    cells={"exercise_doubled": f"def doubled(v):\n    return '''{evil}'''", "own_1": evil})  # fmt: skip
    notebook = autograded.notebook_of(lab, record)
    nbformat.validate(notebook)
    config = Config()
    config.HTMLExporter.template_name = "formgrade"
    config.HTMLExporter.extra_template_basedirs = [handlers.template_path]
    resources = {
        key: "x"
        for key in ("assignment_id", "notebook_id", "submission_id", "base_url", "student", "last_name", "first_name", "notebook_path")
    }
    html, _ = HTMLExporter(config=config).from_notebook_node(notebook, resources={**resources, "index": 0, "total": 1})
    assert "alert('mine')</script>" not in html and "onerror=alert('mine')>" not in html
    found = Found(html[html.index('id="notebook-container"') :])
    assert [
        bad for bad in found.bad if "alert" in bad or bad in ("script", "iframe", "object", "embed", "base", "img", "svg", "math")
    ] == []
