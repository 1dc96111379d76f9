"""The pictures of the benchmark: axes, lines where they belong, and words for whoever does not see them."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from plots import Chart, Series, axis, described, nice_step, number_text, svg

CHART = Chart(
    "Stall <of> a guest",
    "memory, MiB",
    "median, ms",
    (Series("one & only", ((512, 20.0), (4096, 200.0))), Series("other", ((512, 2000.0),))),
    log_x=True,
    log_y=True,
)


def test_a_logarithmic_axis_goes_from_a_power_of_ten_to_another() -> None:
    found = axis([20.0, 2000.0], log=True)
    assert (found.low, found.high) == (10.0, 10_000.0)
    assert found.marks == (10.0, 100.0, 1000.0, 10_000.0)
    assert found.place(10) == 0
    assert found.place(100) == pytest.approx(1 / 3)


def test_one_value_is_enough_for_an_axis() -> None:
    assert axis([100.0], log=True).marks == (100.0, 1000.0)
    assert axis([0.0], log=False).high > 0


def test_a_linear_axis_begins_with_zero_and_covers_the_highest() -> None:
    found = axis([3.0, 42.0], log=False)
    assert found.low == 0
    assert found.marks[-1] >= 42
    assert found.place(found.marks[-1]) == 1


def test_an_axis_of_sizes_is_marked_at_the_sizes() -> None:
    found = axis([512, 1024, 512], log=True, exact=True)
    assert found.marks == (512, 1024)
    assert 0 < found.place(512) < found.place(1024) < 1


@pytest.mark.parametrize(("values", "log"), [([], False), ([0.0, 1.0], True), ([-1.0], True)])
def test_what_no_axis_can_show(values: list[float], log: bool) -> None:
    with pytest.raises(ValueError, match="no axis"):
        axis(values, log=log)


@pytest.mark.parametrize(("least", "step"), [(0, 1), (0.9, 1), (1, 1), (1.1, 2), (3, 5), (7, 10), (120, 200)])
def test_steps_are_round(least: float, step: float) -> None:
    assert nice_step(least) == pytest.approx(step)


@pytest.mark.parametrize(("value", "text"), [(1_000_000, "1,000,000"), (5, "5"), (0.1234, "0.123"), (12.6, "13")])
def test_numbers_as_they_stand_in_a_picture(value: float, text: str) -> None:
    assert number_text(value) == text


def test_a_picture_is_well_formed_and_has_no_paper_of_its_own() -> None:
    picture = svg(CHART)
    root = ET.fromstring(picture)  # noqa: S314 -- our own text
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert "rect" not in tags
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    assert {"Stall <of> a guest", "memory, MiB", "median, ms", "one & only", "other", "512", "4,096"} <= set(texts)
    assert tags.count("circle") == 3


def test_everything_lies_inside_of_the_picture() -> None:
    picture = svg(CHART)
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', picture)
    assert box
    width, height = int(box[1]), int(box[2])
    for circle in re.finditer(r'cx="([\d.]+)" cy="([\d.]+)"', picture):
        assert 0 < float(circle[1]) < width
        assert 0 < float(circle[2]) < height
    assert all(0 < float(y) < height for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', picture))


def test_a_higher_value_is_drawn_higher() -> None:
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg(CHART))]
    assert heights[2] < heights[1] < heights[0]


def test_lines_differ_by_more_than_their_colour() -> None:
    lines = re.findall(
        r'<path d="M[^"]*" stroke="(#\w+)" stroke-width="2.5" fill="none"( stroke-dasharray="[^"]+")?', svg(CHART)
    )
    assert len(set(lines)) == 2
    assert len({dash for _colour, dash in lines}) == 2


def test_the_words_tell_every_line() -> None:
    assert described(CHART) == (
        "median, ms against memory, MiB. one & only: 20 at 512, 200 at 4,096; other: 2,000 at 512."
    )
