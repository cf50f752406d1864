"""Figures as a picture: for each, the contenders' bars side by side, as long as their values are large.

The bars of one group share a scale and groups do not, so what the picture shows is ratios. The colours are readable on
the light and the dark background of a page that shows the README.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.figures import OURS, Figure
from benchmarks.table import tell

WIDTH: Final = 840
BAR_LEFT: Final = 330
LONGEST_BAR: Final = 250
BAR: Final = 16
GAP: Final = 20
HEAD: Final = 64
HINT: Final = "Shorter is better unless it says otherwise; each group has a scale of its own."

_STYLE: Final = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 }
  .what { font-weight: 600 }
  .quiet { fill: #59636e }
  .page { fill: #ffffff }
  .line { stroke: #d1d9e0 }
  .ours { fill: #0969da }
  .rival { fill: #b6bfc9 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .quiet { fill: #9198a1 } .page { fill: #0d1117 }
    .line { stroke: #3d444d } .ours { fill: #4493f8 } .rival { fill: #59636e }
  }
"""


def draw(figures: Sequence[Figure]) -> str:
    """An SVG document of all figures that have somebody to be compared with."""
    groups = [figure for figure in figures if figure.is_there and len(figure.values) > 1]
    height = HEAD + sum(_height_of(figure) for figure in groups)
    body: list[str] = []
    top = HEAD
    for figure in groups:
        body += _draw_group(figure, top)
        top += _height_of(figure)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
            "<title>What it costs, beside the alternatives</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>',
            '<text class="title" x="24" y="32">What it costs, beside the alternatives</text>',
            f'<text class="quiet" x="24" y="51">{escape(HINT)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _height_of(figure: Figure) -> int:
    return max(len(figure.values), len(_label(figure))) * (BAR + 4) + GAP


def _draw_group(figure: Figure, top: int) -> Iterator[str]:
    longest = max(figure.values.values())
    yield f'<line class="line" x1="24" x2="{WIDTH - 24}" y1="{top}" y2="{top}"/>'
    for number, line in enumerate(_label(figure)):
        yield f'<text class="what" x="24" y="{top + 23 + number * 17}">{escape(line)}</text>'
    for number, name in enumerate(figure.values):
        y = top + 10 + number * (BAR + 4)
        length = max(2.0, LONGEST_BAR * figure.values[name] / longest)
        role = "ours" if name == OURS else "rival"
        yield f'<text class="quiet" x="{BAR_LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="{role}" x="{BAR_LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text x="{BAR_LEFT + length + 8:.1f}" y="{y + 13}">{escape(_tell_bar(figure, name))}</text>'


def _tell_bar(figure: Figure, name: str) -> str:
    ratio = figure.ratios.get(name)
    if ratio is None:
        return tell(figure, name)
    return f"{tell(figure, name)}  ·  ours is {f'{ratio:.2f}' if ratio >= 0.1 else f'{ratio:.2g}'} ×"


def _label(figure: Figure, longest: int = 25) -> list[str]:
    more = " (longer is better)" if figure.more_is_better else ""
    lines = [""]
    for word in (figure.what + more).split():
        if len(lines[-1]) + len(word) > longest:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
