"""Who is given up where there are too many connections, or they hold too much."""

from __future__ import annotations

from stillframe.http.crowd import CREST, Crowd


class Member:
    def __init__(self, name: str, gone: list[str]) -> None:
        self.name = name
        self._gone = gone

    def give_up(self) -> None:
        self._gone.append(self.name)


def a_crowd(limit: int, max_held_bytes: int = 1000) -> tuple[Crowd, list[Member], list[str]]:
    """Its first ``limit`` members have entered; the list of names is who was given up."""
    gone: list[str] = []
    crowd = Crowd(limit, max_held_bytes, on_ebb=lambda: gone.append("ebb"))
    members = [Member(name, gone) for name in "abcdefg"]
    for member in members[:limit]:
        crowd.enter(member)
    return crowd, members, gone


def test_the_order_in_which_a_crowd_gives_up_its_members() -> None:
    crowd, (a, b, _c, d, e, f, _), gone = a_crowd(3)
    crowd.has_asked(a, 1)
    crowd.asks(b)  # after an answer: anew
    crowd.enter(d)
    assert gone == ["c"]
    crowd.has_asked(b, 1)
    crowd.has_asked(d, 1)
    crowd.lets_lie(d, 1)
    crowd.lets_lie(a, 1)
    crowd.reads(d)
    crowd.lets_lie(d, 1)
    crowd.enter(e)
    assert gone == ["c", "a"], "nobody is without a request but the newcomer; a has let its answer lie for longest"
    crowd.leave(a)
    assert len(crowd) == 3
    crowd.has_asked(e, 1)
    crowd.reads(d)
    crowd.enter(f)
    assert gone == ["c", "a", "f"], "everybody else is being answered"


def test_when_a_crowd_has_gone_it_is_said_once() -> None:
    ebbs: list[int] = []
    crowd = Crowd(10_000, 1000, on_ebb=lambda: ebbs.append(len(crowd)))
    for _ in range(2):
        members = [Member("m", []) for _ in range(CREST)]
        for member in members:
            crowd.enter(member)
        for member in members:
            crowd.leave(member)
    for _ in range(100):
        few = Member("f", [])
        crowd.enter(few)
        crowd.leave(few)
    assert ebbs == [CREST // 10] * 2


def test_requests_that_hold_too_much_are_given_up_in_the_order_in_which_they_began() -> None:
    crowd, (a, b, c, d, *_), gone = a_crowd(4)
    crowd.says(b, 100)
    crowd.says(a, 100)
    crowd.says(b, 300)
    crowd.says(c, 600)
    assert gone == []
    crowd.says(d, 1)
    assert gone == ["b"]
    crowd.has_asked(c, 600)
    crowd.says(d, 301)
    assert gone == ["b", "a"], "c is complete"
    crowd.says(d, 5000)
    assert gone == ["b", "a"], "one alone may be as large as requests may be"
    crowd.asks(c)  # answered
    crowd.says(d, 900)
    crowd.says(c, 100)
    assert gone == ["b", "a"]
    crowd.says(b, 5000)
    assert gone == ["b", "a"], "who was given up is not heard of again"


def test_answers_that_hold_too_much_are_given_up_in_the_order_in_which_they_lie() -> None:
    crowd, (a, b, c, *_), gone = a_crowd(3)
    for member in (a, b, c):
        crowd.has_asked(member, 1)
    crowd.lets_lie(a, 5000)
    assert gone == [], "one alone may be as large as answers may be"
    crowd.reads(a)
    crowd.lets_lie(b, 500)
    crowd.lets_lie(a, 500)
    crowd.lets_lie(c, 1)
    assert gone == ["b"]
