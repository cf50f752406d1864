"""Draws figures as a picture: each is a group of bars, one for each contender, whose length shows the value.

The bars of one group share a scale and groups do not, so the picture shows ratios. The colours are readable on light
and on dark backgrounds, since the page that shows them may have either.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.figures import OUR_NAME, Figure
from benchmarks.table import format_value

PICTURE_WIDTH_PX: Final = 840
BAR_LEFT_PX: Final = 330
MAX_BAR_LENGTH_PX: Final = 250
BAR_HEIGHT_PX: Final = 16
GROUP_GAP_PX: Final = 20
HEADER_HEIGHT_PX: Final = 64
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


def render_svg(figures: Sequence[Figure]) -> str:
    """Return an SVG document of all figures that compare this project with a rival."""
    groups = [figure for figure in figures if len(figure.values) > 1]
    height = HEADER_HEIGHT_PX + sum(_compute_group_height_px(figure) for figure in groups)
    body: list[str] = []
    top = HEADER_HEIGHT_PX
    for figure in groups:
        body += _render_group(figure, top)
        top += _compute_group_height_px(figure)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PICTURE_WIDTH_PX} {height}">',
            "<title>What it costs, beside the alternatives</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{PICTURE_WIDTH_PX}" height="{height}" rx="8"/>',
            '<text class="title" x="24" y="32">What it costs, beside the alternatives</text>',
            f'<text class="quiet" x="24" y="51">{escape(HINT)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _compute_group_height_px(figure: Figure) -> int:
    return max(len(figure.values), len(_wrap_group_label(figure))) * (BAR_HEIGHT_PX + 4) + GROUP_GAP_PX


def _render_group(figure: Figure, top_px: int) -> Iterator[str]:
    largest = max(figure.values.values())
    yield f'<line class="line" x1="24" x2="{PICTURE_WIDTH_PX - 24}" y1="{top_px}" y2="{top_px}"/>'
    for number, line in enumerate(_wrap_group_label(figure)):
        yield f'<text class="what" x="24" y="{top_px + 23 + number * 17}">{escape(line)}</text>'
    for number, name in enumerate(figure.values):
        y = top_px + 10 + number * (BAR_HEIGHT_PX + 4)
        length = max(2.0, MAX_BAR_LENGTH_PX * figure.values[name] / largest)
        role = "ours" if name == OUR_NAME else "rival"
        yield f'<text class="quiet" x="{BAR_LEFT_PX - 10}" y="{y + 13}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="{role}" x="{BAR_LEFT_PX}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT_PX}" rx="2"/>'
        yield f'<text x="{BAR_LEFT_PX + length + 8:.1f}" y="{y + 13}">{escape(_render_bar_label(figure, name))}</text>'


def _render_bar_label(figure: Figure, contender: str) -> str:
    ratio = figure.ratios.get(contender)
    if ratio is None:
        return format_value(figure, contender)
    return f"{format_value(figure, contender)}  ·  ours is {f'{ratio:.2f}' if ratio >= 0.1 else f'{ratio:.2g}'} ×"


def _wrap_group_label(figure: Figure, max_characters: int = 25) -> list[str]:
    more = " (longer is better)" if figure.more_is_better else ""
    lines = [""]
    for word in (figure.what + more).split():
        if len(lines[-1]) + len(word) > max_characters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
