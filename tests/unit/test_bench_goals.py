"""The benchmark's goals and tables: what is asked, what was found, and that what was not measured is never said to hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from goals import Goal, Kind, goals
from measurements import Measurements, percentile
from report import (
    Run,
    charts,
    document,
    goals_rows,
    markdown,
    other_rows,
    plain,
    put_section,
    sizes_rows,
    write_document,
    write_pictures,
)
from scale import FULL, QUICK, Scale

SCALES = [pytest.param(FULL, id="full"), pytest.param(QUICK, id="quick")]


def measured(**values: float | list[float]) -> Measurements:
    found = Measurements()
    for key, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            found.add(key, one)
    return found


@pytest.mark.parametrize(
    ("kind", "limit", "figures", "found", "word"),
    [
        (Kind.SHARE, 1 / 20, (50.0, 1000.0), "1/20 (50.0 of 1,000 ms)", "holds"),
        (Kind.SHARE, 1 / 20, (51.0, 1000.0), "1/19.6 (51.0 of 1,000 ms)", "MISSED"),
        (Kind.SHARE, 1 / 2, (30.0, 20.0), "1.50x (30.0 of 20.0 ms)", "MISSED"),
        (Kind.FACTOR, 1.5, (30.0, 20.0), "1.50x (30.0 of 20.0 ms)", "holds"),
        (Kind.FACTOR, 1.5, (31.0, 20.0), "1.55x (31.0 of 20.0 ms)", "MISSED"),
        (Kind.RATE, 0.9, (90.0, 100.0), "0.90x (90.0 of 100 ms)", "holds"),
        (Kind.RATE, 0.9, (89.0, 100.0), "0.89x (89.0 of 100 ms)", "MISSED"),
        (Kind.ABOVE, 10, (21.0, 11.0), "10.0 ms (21.0 over 11.0 ms)", "holds"),
        (Kind.ABOVE, 10, (21.5, 11.0), "10.5 ms (21.5 over 11.0 ms)", "MISSED"),
        (Kind.ABOVE, 10, (8.0, 11.0), "-3.0 ms (8.0 over 11.0 ms)", "holds"),
    ],
)
def test_a_goal_and_what_was_found(
    kind: Kind, limit: float, figures: tuple[float, float], found: str, word: str
) -> None:
    goal = Goal("key", "words", kind, limit, "first", "second")
    of = measured(first=figures[0], second=figures[1])
    assert (goal.found_text(of), goal.word(of)) == (found, word)


@pytest.mark.parametrize(
    ("kind", "limit", "required"),
    [
        (Kind.SHARE, 1 / 20, "<= 1/20"),
        (Kind.FACTOR, 1.02, "<= 1.02x"),
        (Kind.RATE, 0.9, ">= 0.90x"),
        (Kind.ABOVE, 10, "<= 10.0 ms"),
    ],
)
def test_what_is_asked_in_words(kind: Kind, limit: float, required: str) -> None:
    assert Goal("key", "words", kind, limit, "first", "second").required == required


def test_medians_are_compared() -> None:
    goal = Goal("key", "words", Kind.FACTOR, 2, "first", "second")
    assert goal.found(measured(first=[1, 4, 1000], second=[1, 2, 3])) == 2


@pytest.mark.parametrize("figures", [measured(), measured(first=1), measured(second=1)])
def test_what_was_not_measured_is_neither_held_nor_missed(figures: Measurements) -> None:
    goal = Goal("key", "words", Kind.FACTOR, 2, "first", "second")
    assert (goal.found_text(figures), goal.word(figures)) == ("not measured", "-")


@pytest.mark.parametrize("scale", SCALES)
def test_goals_have_keys_and_words_of_their_own(scale: Scale) -> None:
    found = goals(scale)
    assert len({goal.key for goal in found}) == len({goal.words for goal in found}) == len(found)


def test_one_size_is_not_compared_with_itself() -> None:
    assert not {"stall.growth", "rollback.growth"} & {goal.key for goal in goals(QUICK)}
    assert {"stall.growth", "rollback.growth"} <= {goal.key for goal in goals(FULL)}


def whole(scale: Scale) -> Measurements:
    """A figure for every key that a goal asks for, and some beside."""
    found = measured()
    for goal in goals(scale):
        for key in (goal.first, goal.second):
            if not found.has(key):
                found.add(key, 100.0)
    for mib in scale.sizes:
        if not found.has(f"jitter.{mib}"):
            found.add(f"jitter.{mib}", 9.0)
    return found


@pytest.mark.parametrize("scale", SCALES)
def test_tables_have_as_many_cells_in_every_row(scale: Scale) -> None:
    figures = whole(scale)
    for rows in (goals_rows(figures, scale), sizes_rows(figures, scale), other_rows(figures)):
        assert len({len(row) for row in rows}) == 1
        assert len(plain(rows).splitlines()) == len(rows)
        assert len(markdown(rows).splitlines()) == len(rows) + 1


def test_a_missed_goal_stands_out_in_the_document() -> None:
    assert "| **MISSED** |" in markdown([["figure", "word"], ["a", "MISSED"]])


@pytest.mark.parametrize("scale", SCALES)
def test_the_document_says_how_it_stands(scale: Scale) -> None:
    run = Run("make bench", "2026-01-01", scale, [("Cores", "2")])
    text = document(whole(scale), run)
    missed = sum(goal.word(whole(scale)) == "MISSED" for goal in goals(scale))
    assert f"{len(goals(scale)) - missed} of {len(goals(scale))} goals hold, {missed} missed." in text
    assert "not measured" not in text
    assert text.index("| Cores | 2 |") < text.index("## Goals")
    for name in charts(whole(scale), scale):
        assert f"](images/{name})" in text
    assert f"{len(goals(scale))} were not measured" in document(measured(), run)


def test_goals_that_were_not_measured_are_not_said_to_hold() -> None:
    run = Run("make bench", "2026-01-01", FULL, [("Cores", "2")])
    count = len(goals(FULL))
    assert f"**0 of {count} goals hold, 0 missed. {count} were not measured.**" in document(measured(), run)
    one = goals(FULL)[0]
    figures = measured(**{one.first: 1, one.second: 100})
    assert f"**1 of {count} goals hold, 0 missed. {count - 1} were not measured.**" in document(figures, run)


def test_the_document_says_which_parts_failed() -> None:
    run = Run("make bench", "2026-01-01", FULL, [("Cores", "2")], ("snapshots", "merge"))
    assert "FAILED in this run, and without the figures that it would have had: snapshots, merge." in document(
        whole(FULL), run
    )
    assert "FAILED" not in document(whole(FULL), Run("make bench", "2026-01-01", FULL, [("Cores", "2")]))


@pytest.mark.parametrize("call", ["list", "get", "tree", "head"])
@pytest.mark.parametrize("database", ["SQLite", "PostgreSQL"])
def test_what_a_core_answers_is_among_the_goals(call: str, database: str) -> None:
    figures = measured(**{f"per_s.{call}.{database}": 49.0, f"per_s.{call}.constant": 100.0})
    assert [goal.word(figures) for goal in goals(FULL) if goal.found(figures) is not None] == ["MISSED"]


def test_nothing_is_drawn_of_what_was_not_measured() -> None:
    assert charts(measured(), FULL) == {}
    assert set(charts(whole(FULL), FULL)) == {"bench-pause.svg", "bench-rollback.svg", "bench-reads.svg"}


def test_sections_of_others_stay_and_old_ones_go(tmp_path: Path) -> None:
    file = tmp_path / "benchmarks.md"
    file.write_text("# Old\n\n## Targets\n\nold\n\n## Figures\n\nold\n\n## Reads\n\nkept\n")
    write_document(file, "# New\n\n## Figures\n\nnew\n", ["Targets"])
    assert file.read_text() == "# New\n\n## Figures\n\nnew\n\n## Reads\n\nkept\n"
    put_section(file, "## Reads", "newer")
    assert file.read_text() == "# New\n\n## Figures\n\nnew\n\n## Reads\n\nnewer\n"


def test_figures_as_they_are_written() -> None:
    figures = measured(one=1.25, more=[3, 1, 2000])
    assert figures.text("one") == "1.2"
    assert figures.text("more") == "3.0 (1.0 to 2,000)"
    assert figures.text("none") == "-"


@pytest.mark.parametrize(("values", "share", "found"), [([1], 0.99, 1), (range(1, 101), 0.99, 99), (range(1, 102), 0.99, 100), ([2, 1], 0.5, 1)])  # fmt: skip
def test_percentiles(values: list[float], share: float, found: float) -> None:
    assert percentile(list(values), share) == found


def test_a_picture_is_written_for_every_chart(tmp_path: Path) -> None:
    write_pictures(whole(FULL), FULL, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(charts(whole(FULL), FULL))
