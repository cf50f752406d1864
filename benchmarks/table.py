"""Figures as a table for people."""

from collections.abc import Sequence

from benchmarks.figures import OURS, Figure


def write_table(figures: Sequence[Figure]) -> str:
    """A line for each figure and each rival, then the notes."""
    rows = [("what", "ours", "against", "ratio", "to reach", "")]
    for figure in figures:
        rivals = [name for name in figure.values if name != OURS] or [""]
        for number, rival in enumerate(rivals):
            rows.append(
                (
                    "" if number else figure.what,
                    "" if number else tell(figure, OURS) if figure.is_there else "–",
                    f"{rival} {tell(figure, rival)}" if rival else "",
                    f"{figure.ratios[rival]:.3g}" if rival in figure.ratios else "",
                    "" if number else figure.target,
                    "" if number else tell_verdict(figure),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{figure.what}:\n  " + figure.note.replace("\n", "\n  ") for figure in figures if figure.note]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes])


def tell(figure: Figure, name: str) -> str:
    """One contender's value with its unit, as long as it is precise."""
    value = figure.values[name]
    if figure.unit == "s":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    if figure.unit == "bytes":
        return f"{value:,.0f} bytes"
    return f"{value:.1f} {figure.unit}"


def tell_verdict(figure: Figure) -> str:
    """Whether it is as it should be, in one word."""
    if not figure.is_there:
        return "not there yet"
    return {True: "reached", False: "MISSED", None: ""}[figure.reached]
