"""The ratios of a run as a picture: one bar a row beside the least and the most that is asked of it. Plain SVG.

A logarithmic axis, since the peers are a thousand times slower and the floors are not.
"""

from __future__ import annotations

import math
import re
from html import escape

from bench.harness import Report, Row, shown

WIDTH, NAMES, FIGURES, LINE, TOP = 1_180, 470, 200, 22, 64
BAR = 12
DEMAND = re.compile(r"(must|aim) [≤>≥] ([0-9.,]+)")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1c2430}.t{font-size:16px;font-weight:600}.s{fill:#5b6675}"
    ".ok{fill:#2f7d5b}.over{fill:#b4532a}.peer{fill:#5a6fae}.grid{stroke:#dfe4ea}.must{stroke:#1c2430;stroke-width:2}"
    ".aim{stroke:#1c2430;stroke-width:2;stroke-dasharray:3 2}"
    "@media(prefers-color-scheme:dark){svg{background:#14181d}text{fill:#e6eaf0}.s{fill:#9aa5b3}.grid{stroke:#2b323b}.must,.aim{stroke:#e6eaf0}}"
)


def svg(report: Report) -> str:
    """A picture of the rows that have a ratio."""
    rows = [row for row in report.rows if row.ratio is not None]
    most = max([10.0, *(row.ratio or 1.0 for row in rows), *(value for row in rows for value in demands(row).values())])
    decades = range(-1, math.ceil(math.log10(most)) + 1)
    height = TOP + LINE * len(rows) + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        '<text class="t" x="12" y="24">Ratio to the floor or peer of the same run</text>',
        '<text class="s" x="12" y="44">solid line: must; dashed line: aim; logarithmic axis</text>',
    ]
    for power in decades:
        at = _x(10.0**power, decades)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP - 6}" y2="{height - 24}"/>')
        parts.append(f'<text class="s" x="{at}" y="{height - 8}" text-anchor="middle">{10.0**power:g}×</text>')
    for index, row in enumerate(rows):
        parts += _bar(row, TOP + LINE * index, decades)
    return "\n".join([*parts, "</svg>"]) + "\n"


def demands(row: Row) -> dict[str, float]:
    """``{must, aim}`` as far as the row has them as numbers."""
    return {kind: float(number.replace(",", "")) for kind, number in DEMAND.findall(row.must)}


def _bar(row: Row, y: int, decades: range) -> list[str]:
    assert row.ratio is not None
    asked = demands(row)
    begin, end = sorted((_x(1.0, decades), _x(row.ratio, decades)))
    slower_is_better = ">" in row.must or "≥" in row.must
    kind = "peer" if slower_is_better or not asked else "over" if row.ratio > asked.get("must", math.inf) else "ok"
    title = f"<title>{escape(row.name)}: {row.ratio:.2f} × {escape(row.reference)} {escape(row.must)}</title>"
    out = [
        f'<text x="{NAMES}" y="{y + BAR}" text-anchor="end">{escape(row.name)}</text>',
        f'<rect class="{kind}" x="{begin}" y="{y + 2}" width="{max(end - begin, 1):.1f}" height="{BAR}">{title}</rect>',
        f'<text x="{WIDTH - FIGURES + 12}" y="{y + BAR}">{row.ratio:.2f}×  {shown(row.median, row.unit)}</text>',
    ]
    for name, value in asked.items():
        at = _x(value, decades)
        out.append(f'<line class="{name}" x1="{at}" x2="{at}" y1="{y}" y2="{y + BAR + 4}"/>')
    return out


def _x(value: float, decades: range) -> float:
    low, high = decades[0], decades[-1]
    share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
    return round(NAMES + 12 + share * (WIDTH - NAMES - FIGURES - 24), 1)
