"""How results look: one panel of facts, drawn as HTML in a notebook and as plain text in a terminal."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import Any

from course_lib.checks import outcomes
from course_lib.checks.outcomes import Result

MARKS = {
    outcomes.PASSED: "✓",
    outcomes.WRONG: "✗",
    outcomes.ERROR: "!",
    outcomes.OUT_OF_LIMITS: "⧗",
    outcomes.NOT_ATTEMPTED: "○",
}
# Dark enough on white and light enough on black for text of this size; the mark and the word say the same without colour.
COLOURS = {
    outcomes.PASSED: "#1a7f37",
    outcomes.WRONG: "#bc4c00",
    outcomes.ERROR: "#bc4c00",
    outcomes.OUT_OF_LIMITS: "#bc4c00",
    outcomes.NOT_ATTEMPTED: "#6e7781",
}
WORDS = {outcomes.ERROR: "error in your code", outcomes.OUT_OF_LIMITS: "out of time or memory"}
SEVERITY = (outcomes.ERROR, outcomes.OUT_OF_LIMITS, outcomes.WRONG, outcomes.NOT_ATTEMPTED, outcomes.PASSED)


@dataclass
class Panel:
    """The same facts twice: `html` for notebooks, `text` for terminals and screen readers."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def show(panel: Panel) -> None:
    """Display in a notebook, print elsewhere."""
    try:
        from IPython import get_ipython
    except ImportError:  # a plain interpreter without IPython
        get_ipython = lambda: None  # noqa: E731
    shell = get_ipython()
    if shell is None or not getattr(shell, "kernel", None):
        print(panel.text)
    else:
        from IPython.display import display

        display(panel)


def overall(results: list[Result]) -> str:
    """One outcome for an exercise: not attempted if all are, passed if all are, else the one to look at first."""
    found = {r.outcome for r in results}
    if found == {outcomes.NOT_ATTEMPTED}:
        return outcomes.NOT_ATTEMPTED
    failed = [o for o in SEVERITY if o in found and o not in (outcomes.PASSED,)]
    return failed[0] if failed else outcomes.PASSED


def number(points: float) -> str:
    """Points without rounding away a quarter: "2", "0.5", "17.25"."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def word(outcome: str) -> str:
    return WORDS.get(outcome, outcome)


# --- one exercise ---------------------------------------------------------------------------------------------------------


def exercise_panel(exercise: dict, results: list[Result], failures: int) -> Panel:
    """How an exercise stands.

    Args:
        exercise: its entry in the card: name, points, hints, …
        results: one a check, in order.
        failures: different wrong answers so far; the n-th points at hint n, unless the mistake is known, which says more.
    """
    earned = sum(r.earned for r in results)
    outcome = overall(results)
    head = f"{exercise['name']}: {number(earned)} of {number(exercise['points'])} points"
    if all(r.outcome == outcomes.NOT_ATTEMPTED for r in results):
        todo = "Not attempted yet. Write your code in the cell above, run it, then run this one."
        return _panel(head, outcome, None, [], todo)
    hint = next((r.hint for r in results if r.hint), None)
    known = f"Known mistake: {hint}" if hint else None
    rows = [_facts(r) for r in results]
    if outcome == outcomes.PASSED:
        closing = "Graded on other random inputs of the same kind."
    else:
        closing = "Mend the known mistake first, then run this cell again." if known else _next_hint(exercise, results, failures)
    return _panel(head, outcome, known, rows, closing)


def _next_hint(exercise: dict, results: list[Result], failures: int) -> str:
    hints = exercise["hints"]
    if not hints or all(r.outcome in (outcomes.PASSED, outcomes.NOT_ATTEMPTED) for r in results):
        return "Checks marked ○ wait for the part that is still empty."
    return f"Next: open Hint {min(max(failures, 1), hints)} under the statement of the exercise."


@dataclass
class _Row:
    mark: str
    outcome: str
    title: str
    points: str
    lines: list[tuple[str, str]]  # (label, value); monospaced values
    sentences: list[str]
    picture: tuple[str, str] | None  # (base64 PNG, alt text)


def _facts(r: Result) -> _Row:
    lines: list[tuple[str, str]] = []
    sentences: list[str] = []
    if r.outcome == outcomes.PASSED:
        if r.with_substitute:
            sentences.append("Right, given a right helper from the earlier exercise; your own helper still has to be mended.")
        return _Row(MARKS[r.outcome], r.outcome, r.doc, f"{number(r.earned)}/{number(r.points)}", lines, sentences, None)
    if r.case:
        lines.append(("case", r.case))
    if r.call and r.outcome != outcomes.NOT_ATTEMPTED:
        lines.append(("last call", r.call))
    if r.message:
        sentences.append(r.message)
    if r.line and r.line["text"]:
        lines.append(("your line", f"{r.line['text']}   (line {r.line['number']} of the cell, in {r.line['function']})"))
    if r.expected is not None:
        lines.append(("expected", r.expected))
    if r.got is not None:
        lines.append(("got", r.got))
    picture = _picture(*r.pictures) if r.pictures is not None else None
    return _Row(MARKS[r.outcome], r.outcome, r.doc, f"{number(r.earned)}/{number(r.points)}", lines, sentences, picture)


def _panel(head: str, outcome: str, known: str | None, rows: list[_Row], closing: str) -> Panel:
    return Panel(_html(head, outcome, known, rows, closing), _text(head, outcome, known, rows, closing))


def _text(head: str, outcome: str, known: str | None, rows: list[_Row], closing: str) -> str:
    out = [f"{MARKS[outcome]} {head} ({word(outcome)})"] + ([f"  {known}"] if known else [])
    for row in rows:
        out.append(f"  {row.mark} [{row.points}] {row.title}" + ("" if row.outcome == outcomes.PASSED else f" ({word(row.outcome)})"))
        out += [f"      {sentence}" for sentence in row.sentences]
        out += [f"      {label + ':':<10} {value}" for label, value in row.lines]
        if row.picture:
            out.append(f"      picture:   {row.picture[1]}")
    return "\n".join([*out, f"  {closing}"])


def _html(head: str, outcome: str, known: str | None, rows: list[_Row], closing: str) -> str:
    colour = COLOURS[outcome]
    out = [
        f'<div role="status" style="border-left:4px solid {colour};padding:2px 0 4px 12px;margin:4px 0;line-height:1.45">'
        f'<div><strong style="color:{colour}">{MARKS[outcome]} {escape(head)}</strong> ({escape(word(outcome))})</div>'
    ]
    if known:
        out.append(f'<div style="margin-top:2px;font-weight:600">{_code(known)}</div>')
    for row in rows:
        note = "" if row.outcome == outcomes.PASSED else f" <em>({escape(word(row.outcome))})</em>"
        out.append(
            f'<div style="margin-top:4px"><span style="color:{COLOURS[row.outcome]};font-weight:bold" aria-hidden="true">{row.mark}</span> '
            f"[{row.points}] {_code(row.title)}{note}</div>"
        )
        detail = [f"<div>{_code(sentence)}</div>" for sentence in row.sentences]
        if row.lines:
            cells = "".join(
                f'<tr style="background:none"><th style="text-align:left;font-weight:normal;padding:0 12px 0 0;vertical-align:top">{escape(label)}</th>'
                f'<td style="text-align:left;padding:0"><code style="white-space:pre-wrap;overflow-wrap:anywhere">{escape(value)}</code></td></tr>'
                for label, value in row.lines
            )
            detail.append(f'<table style="margin:2px 0;border:none;font-size:95%">{cells}</table>')
        if row.picture:
            data, alt = row.picture
            detail.append(f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" style="max-width:100%;background:white">')
        if detail:
            out.append(f'<div style="margin-left:20px">{"".join(detail)}</div>')
    out.append(f'<div style="margin-top:4px"><em>{_code(closing)}</em></div></div>')
    return "".join(out)


def _code(text: str) -> str:
    """Escaped text with `backticks` as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 and i < len(parts) - 1 else ("`" if i % 2 else "") + part for i, part in enumerate(parts))


def _picture(got: Any, expected: Any) -> tuple[str, str]:
    """Expected, got and difference side by side, as PNG and in words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    difference = (got - expected).abs().masked_fill((got == expected) | (got.isnan() & expected.isnan()), 0.0)
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    finite = expected[expected.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    for axes, (title, values, limits, colours) in zip(
        figure.subplots(1, 3),
        [
            ("expected", expected, (low, high), "viridis"),
            ("got", got, (low, high), "viridis"),
            ("absolute difference", difference, (0.0, None), "magma"),
        ],
    ):
        image = axes.imshow(values.numpy(), vmin=limits[0], vmax=limits[1], cmap=colours, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    bad = difference.nan_to_num(float("inf")) > 1e-5 * max(abs(low), abs(high), 1e-12)
    rows, columns = bad.any(1).nonzero().flatten(), bad.any(0).nonzero().flatten()
    if len(rows):
        where = f"rows {rows[0]} to {rows[-1]} and columns {columns[0]} to {columns[-1]} of {tuple(expected.shape)}"
    else:
        where = "small differences only"
    return base64.b64encode(buffer.getvalue()).decode(), f"expected, got and their difference: {where}"


# --- progress -------------------------------------------------------------------------------------------------------------


def progress_panel(topic: str, rows: list[dict], written: list[dict]) -> Panel:
    """A table of exercises with points and outcome, and a bar over all points a check can give."""
    earned, total = sum(r["earned"] for r in rows), sum(r["points"] for r in rows)
    share = earned / total if total else 0.0
    head = f"{topic}: {number(earned)} of {number(total)} points"
    by_hand = sum(w["points"] for w in written)
    closing = f"Written answers ({number(by_hand)} points) are graded by hand." if written else ""
    filled = round(20 * share)
    lines = [f"{head}  [{'#' * filled}{'.' * (20 - filled)}]"]
    for r in rows:
        note = f"{word(r['outcome'])}{' (earlier session)' if r['earlier'] else ''}"
        lines.append(f"  {MARKS[r['outcome']]} {r['name']:<24} {number(r['earned']):>4}/{number(r['points']):<4} {note:<14} {r['title']}")
    lines.append(f"  {closing}" if closing else "")
    body = "".join(
        f'<tr><td style="text-align:left;color:{COLOURS[r["outcome"]]}"><span aria-hidden="true">{MARKS[r["outcome"]]}</span></td>'
        f'<td style="text-align:left"><code>{escape(r["name"])}</code> {escape(r["title"])}</td>'
        f'<td style="text-align:right">{number(r["earned"])} / {number(r["points"])}</td>'
        f'<td style="text-align:left">{escape(word(r["outcome"]))}{" (earlier session)" if r["earlier"] else ""}</td></tr>'
        for r in rows
    )
    html = (
        f'<div><strong>{escape(head)}</strong><div role="progressbar" aria-label="points" aria-valuemin="0" aria-valuemax="{number(total)}" '
        f'aria-valuenow="{number(earned)}" style="background:#d0d7de;border-radius:4px;width:320px;max-width:100%;height:12px;margin:4px 0">'
        f'<div style="background:{COLOURS[outcomes.PASSED]};width:{100 * share:.0f}%;height:12px;border-radius:4px"></div></div>'
        f'<table><thead><tr><th></th><th style="text-align:left">exercise</th><th>points</th><th style="text-align:left">state</th></tr></thead>'
        f"<tbody>{body}</tbody></table><div>{escape(closing)}</div></div>"
    )
    return Panel(html, "\n".join(line for line in lines if line))
