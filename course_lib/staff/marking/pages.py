"""What feedback and class report share: one self-contained page without scripts, and how facts are drawn on it.

Every text passes `escape`; the page forbids itself scripts, foreign images, frames and forms, so that a mistake here stays harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from course_lib.checks.render import MARKS, word

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #ffffff; --tint: #f6f8fa; --blue: #0969da;
  --passed: #1a7f37; --wrong: #bc4c00; --open: #59636e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --page: #0d1117; --tint: #151b23;
  --blue: #4493f8; --passed: #3fb950; --wrong: #f0883e; --open: #9198a1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.skip { position: absolute; left: -999px; } .skip:focus { left: 8px; top: 8px; background: var(--page); padding: 4px 8px; }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; } footer { padding-bottom: 2rem; color: var(--soft); font-size: .875rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2rem 0 .5rem; } h3 { font-size: 1.05rem; margin: 1rem 0 .25rem; }
h3.check { font-size: 1rem; font-weight: 500; } h3.check .soft { font-weight: 400; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 0 1.5rem; } .grid > div { min-width: 0; }
p { margin: .5rem 0; max-width: 46rem; } .soft { color: var(--soft); } .big { font-size: 1.25rem; }
a { color: var(--blue); } :focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
code, pre { font: .875em/1.45 ui-monospace, SFMono-Regular, Consolas, "Liberation Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tint); border: 1px solid var(--line); border-radius: 6px;
padding: .6rem .75rem; margin: .25rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; min-width: min(100%, 26rem); font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; } th, td { text-align: left; vertical-align: top; padding: .3rem
.75rem .3rem 0; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; } tbody tr > * { border-bottom: 1px solid var(--line); } th {
font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; } td.w { overflow-wrap: anywhere; min-width: 9rem; }
.exercise { border: 1px solid var(--line); border-left: 5px solid var(--open); border-radius: 6px; padding: .25rem 1rem .75rem; margin: 1rem 0; }
.exercise h2 { margin-top: .75rem; } .passed { border-left-color: var(--passed); } .wrong { border-left-color: var(--wrong); }
.mark-passed { color: var(--passed); } .mark-wrong { color: var(--wrong); } .mark-open { color: var(--open); }
dl { margin: .25rem 0; } dt { color: var(--soft); font-size: .875rem; } dd { margin: 0 0 .4rem; }
.hint { border-left: 3px solid var(--blue); padding: .1rem .75rem; margin: .5rem 0; background: var(--tint); }
.notice { border: 1px solid var(--wrong); border-radius: 6px; padding: .5rem 1rem; margin: 1rem 0; }
details { margin: .4rem 0; } summary { cursor: pointer; } details > *:not(summary) { margin-left: 1rem; }
svg { display: block; max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.bar { fill: var(--blue); } .trough { fill: var(--line); } figure { margin: .5rem 0; } img { max-width: 100%; height: auto; background: #ffffff; image-rendering: pixelated; }
@media (max-width: 40rem) { body { font-size: 15px; } th, td { padding-right: .5rem; } .stack thead { position: absolute; left: -9999px; }
  .stack tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0; } .stack tbody tr > * { border: 0; }
  .stack th, .stack td { display: block; text-align: left; padding: .05rem 0; } .stack td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
  .stack td.void { display: none; } }
@media print { :root { --ink: #000; --page: #fff; --tint: #fff; --soft: #333; } body { font-size: 11pt; } .exercise, tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .skip, nav { display: none; } details:not([open])::details-content { content-visibility: visible; display: block; } }
"""  # noqa: E501

KINDS = {"passed": "passed", "not attempted": "open"}  # any other outcome is "wrong"


def page(title: str, head: str, body: str, foot: str) -> str:
    """A whole page. `title` is text; `head`, `body` and `foot` are HTML that is safe already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" '
        f'content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="robots" content="noindex">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<a class="skip" href="#main">Skip to the content</a>\n<header>\n{head}\n</header>\n<main id="main" '
        f'tabindex="-1">\n{body}\n</main>\n'
        f"<footer>\n{foot}\n</footer>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escaped; characters that turn the direction of writing, by which a name could hide what it says, are shown as what they are."""
    cleaned = "".join(f"\\u{ord(c):04x}" if c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" else c for c in str(value))
    return escape("".join(c for c in cleaned if c in "\n\t" or c >= " "))


def with_code(value: str) -> str:
    """Escaped text with `backquoted` parts as code."""
    parts = text(value).split("`")
    if len(parts) % 2 == 0:  # an odd backquote: leave it as it is
        return text(value)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def kind(outcome: str) -> str:
    """passed, open or wrong: the class that colours an outcome."""
    return KINDS.get(outcome, "wrong")


def mark(outcome: str) -> str:
    """An outcome's sign for the eye, and its word for everybody."""
    return f'<span class="mark-{kind(outcome)}"><span aria-hidden="true">{MARKS[outcome]}</span> {text(word(outcome))}</span>'


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], stack: bool = False) -> str:
    """A table with scoped heads; a row's first cell is its head.

    Args:
        heads: names of the columns, as text.
        rows: cells as (HTML, class); class "n" for numbers.
        stack: on a phone each row becomes a block of lines.
    """
    numeric = [bool(rows) and all(row[i][1] == "n" for row in rows) for i in range(len(heads))]
    head = "".join(f'<th scope="col"{" class=n" if n else ""}>{text(h)}</th>' for h, n in zip(heads, numeric))
    lines = []
    for row in rows:
        first, *others = row
        cells = [f'<th scope="row">{first[0]}</th>']
        for label, (html, css) in zip(heads[1:], others):
            void = " void" if not html else ""
            cells.append(f'<td class="{css}{void}" data-label="{text(label)}">{html}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    css = ' class="stack"' if stack else ""
    inside = f'<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody>'
    return f'<div class="scroll"><table{css}>{inside}</table></div>'


def bars(counts: Sequence[tuple[str, int]], label: str) -> str:
    """A small bar chart. `label` says what it counts; the numbers stand in the picture and in its description."""
    width, line, left = 340, 20, 84
    most = max((count for _, count in counts), default=0) or 1
    said = ", ".join(f"{name}: {count}" for name, count in counts)
    drawn = []
    for i, (name, count) in enumerate(counts):
        y, length = i * line, (width - left - 44) * count / most
        drawn.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{text(name)}</text>'
            f'<rect class="bar" x="{left}" y="{y + 4}" width="{max(length, 1 if count else 0):.1f}" height="{line - 8}" rx="2"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 14}">{count}</text>'
        )
    height = line * len(counts)
    return (
        f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-label="{text(label)}: {text(said)}">'
        f"{''.join(drawn)}</svg>"
    )


def meter(share: float, label: str, width: int = 120) -> str:
    """A bar from nothing to all."""
    filled = max(0.0, min(1.0, share)) * width
    return (
        f'<svg role="img" width="{width}" height="10" viewBox="0 0 {width} 10" aria-label="{text(label)}">'
        f'<rect class="trough" width="{width}" height="10" rx="3"/><rect class="bar" width="{filled:.1f}" height="10" rx="3"/></svg>'
    )
