"""Ctrl-C: it ends the command, and strikes nothing that works for the command beside it."""

from __future__ import annotations

import signal

from tests.support.process import Workplace

BUSY = """
import click, gevent

def work():
    print("at work", flush=True)
    try:
        while True:
            sum(range(1000))
            gevent.sleep(0)
    except KeyboardInterrupt:
        print("struck", flush=True)

@click.command()
def busy():
    gevent.spawn(work).join()

def register_commands(cli):
    cli.add_command(busy)
"""


def test_ctrl_c_is_for_the_command_and_not_for_the_greenlet_that_runs(
    bare_workplace: Workplace,
) -> None:
    bare_workplace.install("busy", BUSY)
    process = bare_workplace.start(["-m", "limehub", "busy"])
    process.wait_for_line("at work")
    assert process.stop(signal.SIGINT) == 130
    assert process.lines_with("") == ["at work"]
