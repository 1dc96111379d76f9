"""Line charts as SVG: readable on light and on dark paper, and with a text of what they show for whoever does not see them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 44, 44, 52
# middling colours: on white and on black alike they can be told from the paper and from each other
_COLOURS = ("#2f81f7", "#d9730d", "#c2418f", "#2c9a5b", "#8b6fd6", "#a88a16", "#1b9aaa", "#d1514a")
_DASHES = ("", "7 4", "2 4", "10 4 2 4")
_INK, _LINES = "#7d8590", "#7d8590"
_LEGEND_ROW, _LEGEND_COLUMNS = 20, 2
_TICKS = 5


@dataclass(frozen=True)
class Series:
    """One line: (x, y) from left to right."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """What is drawn. A logarithmic axis takes values above zero only."""

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Axis:
    """Values to places from 0 to 1, and the values at which it is marked."""

    low: float
    high: float
    log: bool
    marks: tuple[float, ...]

    def place(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis(values: Iterable[float], *, log: bool, exact: bool = False) -> Axis:
    """An axis over all of them: from zero on, or from a power of ten to another.

    ``exact``: marked at the values themselves, and ending with them.

    Raises:
        ValueError: there is no value, or one that a logarithmic axis cannot have.
    """
    sorted_values = sorted(set(values))
    if not sorted_values or (log and sorted_values[0] <= 0):
        raise ValueError(f"no axis over {sorted_values}")
    lowest, highest = sorted_values[0], sorted_values[-1]
    if exact:
        low, high = (lowest / 1.1, highest * 1.1) if log else (0.0, highest * 1.05)
        return Axis(low, high, log, tuple(sorted_values))
    if log:
        first = math.floor(math.log10(lowest))
        last = max(math.ceil(math.log10(highest)), first + 1)
        return Axis(10.0**first, 10.0**last, log, tuple(10.0**power for power in range(first, last + 1)))
    step = nice_step(highest / _TICKS)
    count = max(1, math.ceil(highest / step))
    return Axis(0.0, step * count, log, tuple(step * number for number in range(count + 1)))


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, … that is no smaller."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999999)


def svg(chart: Chart) -> str:
    """The picture. It has no background.

    Raises:
        ValueError: there is nothing to draw, or a logarithmic axis is to show a value that is not above zero.
    """
    points = [point for one in chart.series for point in one.points]
    x_axis = axis((x for x, _y in points), log=chart.log_x, exact=True)
    y_axis = axis((y for _x, y in points), log=chart.log_y)
    height = _HEIGHT + _LEGEND_ROW * math.ceil(len(chart.series) / _LEGEND_COLUMNS)
    spoken = 'role="img" aria-labelledby="title text"'
    box = f'viewBox="0 0 {_WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {spoken} font-family="sans-serif" font-size="13">',
        f'<title id="title">{escape(chart.title)}</title>',
        f'<desc id="text">{escape(described(chart))}</desc>',
        f'<text x="{_LEFT}" y="24" font-size="16" fill="{_INK}">{escape(chart.title)}</text>',
        *_grid(chart, x_axis, y_axis),
        *(_line(number, one, x_axis, y_axis) for number, one in enumerate(chart.series)),
        *(_legend(number, one) for number, one in enumerate(chart.series)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def described(chart: Chart) -> str:
    """The chart in words: every line with its first and last value."""
    said = []
    for one in chart.series:
        (first_x, first_y), (last_x, last_y) = one.points[0], one.points[-1]
        said.append(f"{one.name}: {number_text(first_y)} at {number_text(first_x)}")
        if len(one.points) > 1:
            said[-1] += f", {number_text(last_y)} at {number_text(last_x)}"
    return f"{chart.y_title} against {chart.x_title}. " + "; ".join(said) + "."


def number_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


def _across(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _down(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom, top, left, right = _down(0), _down(1), _across(0), _across(1)
    lines = [f'<g stroke="{_LINES}" stroke-opacity="0.35">']
    lines += [f'<path d="M{left:.0f} {_down(y_axis.place(y)):.1f}H{right:.0f}"/>' for y in y_axis.marks]
    lines += [f'<path d="M{_across(x_axis.place(x)):.1f} {bottom:.0f}V{top:.0f}"/>' for x in x_axis.marks]
    lines += ["</g>", f'<g fill="{_INK}" text-anchor="end">']
    for y in y_axis.marks:
        lines.append(f'<text x="{left - 8:.0f}" y="{_down(y_axis.place(y)) + 4:.1f}">{number_text(y)}</text>')
    lines += ["</g>", f'<g fill="{_INK}" text-anchor="middle">']
    for x in x_axis.marks:
        lines.append(f'<text x="{_across(x_axis.place(x)):.1f}" y="{bottom + 18:.0f}">{number_text(x)}</text>')
    lines.append(f'<text x="{(left + right) / 2:.0f}" y="{bottom + 40:.0f}">{escape(chart.x_title)}</text>')
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 18 {middle:.0f})"'
    return [*lines, f'<text x="18" y="{middle:.0f}" {turned}>{escape(chart.y_title)}</text>', "</g>"]


def _look(number: int) -> str:
    dash = _DASHES[number % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_COLOURS[number % len(_COLOURS)]}" stroke-width="2.5" fill="none"{dashes}'


def _line(number: int, one: Series, x_axis: Axis, y_axis: Axis) -> str:
    places = [(_across(x_axis.place(x)), _down(y_axis.place(y))) for x, y in one.points]
    path = _path(places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places)
    colour = _COLOURS[number % len(_COLOURS)]
    return f'<path d="{path}" {_look(number)}/><g fill="{colour}">{dots}</g>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    x, y = places[0]
    return f"M{x:.1f} {y:.1f}" + "".join(f"L{x:.1f} {y:.1f}" for _before, (x, y) in pairwise(places))


def _legend(number: int, one: Series) -> str:
    row, column = divmod(number, _LEGEND_COLUMNS)
    x, y = _LEFT + column * (_WIDTH - _LEFT) / _LEGEND_COLUMNS, _HEIGHT + 4 + row * _LEGEND_ROW
    line = f'<path d="M{x:.0f} {y:.0f}h30" {_look(number)}/>'
    return f'{line}<text x="{x + 38:.0f}" y="{y + 4:.0f}" fill="{_INK}">{escape(one.name)}</text>'
