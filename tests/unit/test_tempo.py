"""The pace of handlers, from counters that only grow."""

from __future__ import annotations

import math
from typing import Any

import pytest

from limehub.web.tempo import Tempo, percentile
from limehub.workers.handling import BOUNDS

STEPS = len(BOUNDS) + 1


def handler(done: int, failed: int = 0, step: int = 0, name: str = "app.totals") -> dict[str, Any]:
    durations = [0] * STEPS
    durations[step] = done + failed
    return {
        "name": name,
        "outcomes": {"ack": done, "dead-letter": failed},
        "durations": durations,
    }


def test_a_percentile_is_the_upper_end_of_the_step_that_holds_it() -> None:
    counts = [90, 0, 0, 9, 1, *[0] * (STEPS - 5)]
    assert [percentile(counts, share) for share in (0.5, 0.9, 0.95, 0.99, 1.0)] == [
        BOUNDS[0],
        BOUNDS[0],
        BOUNDS[3],
        BOUNDS[3],
        BOUNDS[4],
    ]


def test_beyond_the_last_step_a_percentile_is_infinite_and_without_runs_there_is_none() -> None:
    assert percentile([*[0] * (STEPS - 1), 1], 0.5) == math.inf
    assert percentile([0] * STEPS, 0.5) is None


def test_the_first_look_has_no_rate() -> None:
    pace = Tempo().note(100.0, [handler(1000)])["app.totals"]
    assert (pace.per_second, pace.percentiles) == (None, (None, None, None))


def test_the_rate_is_of_the_last_ten_to_twenty_seconds() -> None:
    tempo = Tempo()
    for second in range(0, 62, 2):
        done = second * 10 if second <= 40 else 400
        pace = tempo.note(float(second), [handler(done)])["app.totals"]
        if second == 40:
            assert pace.per_second == pytest.approx(10.0)
    assert pace.per_second == 0.0


def test_failures_have_a_rate_of_their_own_and_a_discard_is_none() -> None:
    tempo = Tempo()
    tempo.note(0.0, [handler(0)])
    later = handler(10, failed=20) | {"outcomes": {"ack": 5, "discard": 5, "retry": 20}}
    pace = tempo.note(10.0, [later])["app.totals"]
    assert (pace.per_second, pace.failures_per_second) == (3.0, 2.0)


def test_percentiles_forget_what_is_older_than_five_minutes() -> None:
    tempo = Tempo()
    slow = [0] * STEPS
    for second in range(0, 400, 10):
        if second == 10:
            slow[-1] = 5
        durations = list(slow)
        durations[0] = second
        row = handler(0) | {"durations": durations}
        pace = tempo.note(float(second), [row])["app.totals"]
        if second == 20:
            assert pace.percentiles[2] == math.inf
    assert pace.percentiles == (BOUNDS[0], BOUNDS[0], BOUNDS[0])


def test_points_of_charts_are_between_two_looks() -> None:
    tempo = Tempo()
    tempo.note(0.0, [handler(0), handler(0, name="app.mail")])
    tempo.note(2.0, [handler(6, failed=2), handler(4, name="app.mail")])
    point = tempo.totals(1e9, in_flight=3, waiting=None)
    assert (point.done, point.failed, point.in_flight, point.waiting) == (6.0, 1.0, 3, None)


def test_a_handler_that_is_new_has_no_rate_from_before_it_was_there() -> None:
    tempo = Tempo()
    tempo.note(0.0, [])
    assert tempo.note(10.0, [handler(500)])["app.totals"].per_second == 0.0
