"""Renders figures as a table for people."""

from collections.abc import Sequence

from benchmarks.figures import OUR_NAME, Figure


def render_table(figures: Sequence[Figure]) -> str:
    """Return a table with a line for each rival of each figure, and the notes below it."""
    rows = [("what", "ours", "against", "ratio", "to reach", "")]
    for figure in figures:
        rivals = [name for name in figure.values if name != OUR_NAME] or [""]
        for number, rival in enumerate(rivals):
            rows.append(
                (
                    "" if number else figure.what,
                    "" if number else format_value(figure, OUR_NAME),
                    f"{rival} {format_value(figure, rival)}" if rival else "",
                    f"{figure.ratios[rival]:.3g}" if rival in figure.ratios else "",
                    "" if number else figure.target,
                    "" if number else render_verdict(figure),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{figure.what}:\n  " + figure.note.replace("\n", "\n  ") for figure in figures if figure.note]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes])


def format_value(figure: Figure, contender: str) -> str:
    """Return a contender's value with its unit, in as many digits as are worth reading."""
    value = figure.values[contender]
    if figure.unit == "s":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    if figure.unit == "bytes":
        return f"{value:,.0f} bytes"
    return f"{value:.1f} {figure.unit}"


def render_verdict(figure: Figure) -> str:
    """Return whether the target was reached, as one word; an empty text if the figure has no target."""
    return {True: "reached", False: "MISSED", None: ""}[figure.reached]
