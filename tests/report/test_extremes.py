"""The best and the worst of a stream."""

from hypothesis import given
from hypothesis import strategies as st

from ovseg_cli.report.extremes import Extremes


@given(st.lists(st.integers(0, 5).map(float)), st.integers(1, 4))
def test_they_are_those_of_the_sorted_list(scores: list[float], most: int) -> None:
    extremes: Extremes[int] = Extremes(most)
    for place, score in enumerate(scores):
        extremes.add(score, lambda place=place: place)
    half = len(scores) // 2
    falling = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    rising = sorted(range(len(scores)), key=lambda place: (scores[place], place))
    best = falling[: min(most, half)]
    worst = [place for place in rising[:most] if place not in best][: len(scores) - half]
    assert extremes.best() == [(scores[place], place) for place in best]
    assert extremes.worst() == [(scores[place], place) for place in worst]


def test_what_is_not_kept_is_not_made() -> None:
    made: list[float] = []
    extremes: Extremes[None] = Extremes(2)
    for score in (5.0, 1.0, 3.0, 3.0, 3.0, 2.0, 4.0, 3.0, 9.0):
        extremes.add(score, lambda score=score: made.append(score))
    assert made == [5.0, 1.0, 3.0, 2.0, 4.0, 9.0]
