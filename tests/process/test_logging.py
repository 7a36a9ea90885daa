"""A package that sets up logging for itself silences neither limehub nor the other packages."""

from __future__ import annotations

import pytest

from tests.support.probe import Probe
from tests.support.process import Workplace
from tests.support.vhost import Vhost

TAKES_ALL = """
import logging, logging.config
OWN = {"class": "logging.FileHandler", "filename": %r}
SETUP = {"version": 1, "handlers": {"own": OWN}, "root": {"level": "ERROR", "handlers": ["own"]}}
def register_event_handlers(worker, config):
    logging.config.dictConfig(SETUP)
    logging.disable(logging.INFO)
"""
LANE = '[event_handler.workers.default]\nlane = "%s"\n'


@pytest.mark.parametrize("lane", ["greenlet", "process"])
def test_logging_that_a_package_takes_over_is_put_back_and_its_own_handler_stays(
    workplace: Workplace, vhost: Vhost, lane: str
) -> None:
    own = workplace.folder / "own.log"
    workplace.install("solution-loud", TAKES_ALL % str(own))
    probe = Probe.install(workplace, vhost, LANE % lane)
    process = workplace.serve()
    process.wait_for_line("a package changed the logging")
    probe.publish([{"n": 1, "do": "raise", "value": "planned"}])
    process.wait_for_line("handler failed")
    assert process.wait() == 6
    assert process.lines_with('"stopped"')
    assert "handler failed" in own.read_text()


TAKES_AGAIN_AND_AGAIN = """
import logging, gevent
def register_event_handlers(worker, config):
    gevent.spawn(take)
def take():
    taken = 0
    while taken < 4:
        if not logging.root.manager.disable:
            logging.disable(logging.CRITICAL)
            taken += 1
        gevent.sleep(0.01)
    while logging.root.manager.disable:
        gevent.sleep(0.01)
    logging.getLogger(__name__).warning("given up")
"""


def test_a_package_that_takes_the_logging_all_the_time_does_not_fill_the_log(
    workplace: Workplace,
) -> None:
    workplace.install("solution-greedy", TAKES_AGAIN_AND_AGAIN)
    process = workplace.serve(ready=False)
    process.wait_for_line("given up")
    assert len(process.lines_with("a package changed the logging")) == 1
    assert process.stop() == 0
