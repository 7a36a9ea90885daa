"""The benchmark of the embedded broker, in small: all of it runs and all of it is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import embedded
from benchmarks.goals import GOALS
from scripts.rabbitmq_node import RabbitNode


def test_every_goal_of_the_section_is_measured(
    rabbit_node: RabbitNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    results = embedded.measure(
        rabbit_node, tmp_path, 1, said.append, messages=5000, deep=3000, held=5000, starts=1
    )
    assert all(one.rate > 0 for one in results[embedded.FILE])
    by_depth = {
        name.replace("3,000", f"{embedded.DEEP:,}").replace(
            "5,000 queued", f"{embedded.HELD:,} queued"
        ): reports
        for name, reports in results.items()
    }
    goals = [goal for goal in GOALS if goal.section == embedded.NAME]
    assert len(goals) == 10
    assert all(goal.measure(by_depth) > 0 for goal in goals)
    embedded.print_embedded(results)
    assert "on a file, 3,000 waiting" in capsys.readouterr().out
