"""`limehub publish --demo` to a running server."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.support.process import LimehubProcess, Workplace
from tests.support.waiting import wait_until

TOTALS = Path(__file__).parents[2] / "plugins" / "solution-deal-totals" / "src"
PLUGIN = "from solution_deal_totals import default_config, register_event_handlers\n"


def serving(workplace: Workplace) -> LimehubProcess:
    workplace.environ["PYTHONPATH"] = f"{workplace.site}:{TOTALS}"
    workplace.install("solution-deal-totals", PLUGIN, module="totals_plugin")
    return workplace.serve()


def letters(workplace: Workplace) -> int:
    listed = workplace.run("dlq", "list", "solution-deal-totals", "--json", "--limit", "1")
    assert listed.returncode == 0, listed.stderr
    return int(json.loads(listed.stdout)["total"])


def test_what_fails_in_the_demo_is_on_the_desk(workplace: Workplace) -> None:
    serving(workplace)
    options = ("--count", "200", "--rate", "2000", "--fail-rate", "0.2", "--seed", "4", "--json")
    played = workplace.run("publish", "--demo", *options)
    assert played.returncode == 0, played.stderr
    told = json.loads(played.stdout)
    assert 20 <= told["failing"] <= 60
    assert told["published"] + told["unroutable"] == 200
    wait_until(lambda: letters(workplace) == told["failing"], 60, "all failures on the desk")


def test_it_goes_on_until_ctrl_c_and_then_says_how_many(workplace: Workplace) -> None:
    server = serving(workplace)
    demo = workplace.start(["-m", "limehub", "publish", "--demo", "--rate", "200"])
    server.wait_for_line("deal counted")
    assert demo.stop(signal.SIGINT) == 130
    assert demo.lines_with("published ")


def test_without_a_server_it_says_so(workplace: Workplace) -> None:
    played = workplace.run("publish", "--demo", "--count", "5")
    assert played.returncode == 1
    assert "lime.default" in played.stderr
    assert "limehub serve" in played.stderr


def test_options_that_do_not_go_together_are_refused(bare_workplace: Workplace) -> None:
    bare_workplace.configure("")
    for wrong in (
        ("--demo", "core.limeobject.deal.new.v1"),
        ("--rate", "5", "own.key.v1"),
        ("--demo", "--fail-rate", "2"),
        ("--demo", "--rate", "0"),
        (),
    ):
        refused = bare_workplace.run("publish", *wrong)
        assert refused.returncode == 2, (wrong, refused.stderr)
