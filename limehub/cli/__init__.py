"""The command line: click commands, one file a family; each is parse, one call, print.

`run` turns every error into a message on standard error and an exit code; see docs/commands.md.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from limehub import __version__
from limehub.cli.lazy import LazyGroup
from limehub.cli.options import config_option
from limehub.errors import BrokerRefused, BrokerUnreachable, LimehubError

__all__ = ["cli", "leave", "run"]

INTERNAL_ERROR = 70
INTERRUPTED = 130

COMMANDS = {
    "init": ("limehub.cli.init:init", "Write a commented limehub.toml."),
    "serve": ("limehub.cli.serve:serve", "Run the handlers of the installed packages."),
    "check": ("limehub.cli.check:check", "Say what would keep the server from working."),
    "plugins": ("limehub.cli.plugins:plugins", "List the installed packages and their handlers."),
    "explain": ("limehub.cli.explain:explain", "Say what happens to an event, or in a queue."),
    "config": ("limehub.cli.config:config", "Look at the configuration in effect."),
    "publish": ("limehub.cli.publish:publish", "Publish one event, confirmed by the broker."),
    "dlq": ("limehub.cli.dlq:dlq", "Look at dead letters, requeue and delete them."),
    "broker": ("limehub.cli.broker:broker", "Run the embedded broker alone."),
    "bench": ("limehub.cli.bench:bench", "Measure how fast limehub is on this broker."),
}
"""Command -> where it is, and what `limehub --help` says about it without importing it."""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="limehub")
@config_option
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Run the event handlers of pip-installed packages on RabbitMQ."""
    context.obj = config


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; *arguments*: None = those of the process. Returns the exit code."""
    _never_fail_to_print()
    try:
        _invoke(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _aborted()
    except LimehubError as error:
        _say(str(error))
        if isinstance(error, BrokerUnreachable | BrokerRefused):
            _say("which broker, and why: `limehub config show --origin`, events.connection_string")
        return error.exit_code
    except OSError as error:
        return _cannot_write(error) if _is_about_output(error) else _internal_error()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - border: whatever it is, it becomes one exit code
        return _internal_error()
    return 0


def leave(code: int) -> None:
    """End the process with *code*, also when a plugin left threads behind that never end."""
    import threading

    sys.stderr.flush()
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(others) > 1:
        import atexit

        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def _invoke(arguments: list[str]) -> None:
    if "_LIMEHUB_COMPLETE" in os.environ:  # the shell asks for completions
        cli.main(arguments, prog_name="limehub")
    for given in arguments:
        if not _is_text(given):
            raise click.UsageError(f"not UTF-8: {os.fsencode(given)!r}")
    # Not cli.main(): it has opinions of its own on closed pipes and Ctrl-C, other ones each year.
    with cli.make_context("limehub", arguments) as context:
        cli.invoke(context)


def _is_text(argument: str) -> bool:
    """False if Python has hidden bytes in it that are no letters of anybody's."""
    return not any("\ud800" <= letter <= "\udfff" for letter in argument)


def _never_fail_to_print() -> None:
    """Names with letters that the terminal's encoding lacks are escaped, not refused."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    for line in text.splitlines() or [""]:
        click.echo(f"limehub: {line}", err=True)


def _aborted() -> int:
    _say("aborted")
    return 1


def _internal_error() -> int:
    import traceback

    traceback.print_exc()
    error = sys.exc_info()[1]
    _say(f"internal error: {type(error).__name__}: {error}")
    return INTERNAL_ERROR


def _is_about_output(error: OSError) -> bool:
    import errno

    return error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO) and error.filename is None


def _cannot_write(error: OSError) -> int:
    """Who reads our output has gone, or the disk is full. A closed pipe is no news."""
    if not isinstance(error, BrokenPipeError):
        _say(f"cannot write the output: {error.strerror}")
    # What is still buffered would fail once more when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
