"""`python -m limehub.broker`: the broker alone, one line on stdout when it is ready."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from limehub import __version__
from limehub.broker.memory import MEMORY_SHARE, machine_memory
from limehub.broker.node import Limits
from limehub.broker.serving import CannotListen, run_broker
from limehub.broker.storage.errors import StorageError
from limehub.observe import logs


def main() -> int:
    """Parse the command line and serve. Returns the exit code."""
    options = _parser().parse_args()
    logs.configure(options.log_level, options.log_format)
    try:
        run_broker(
            options.listen,
            options.data,
            dict(options.user) or None,
            vhosts=options.vhost or ["/"],
            version=__version__,
            limits=Limits(memory=int(machine_memory() * options.memory_share)),
            on_ready=_say_ready,
            lifeline=0 if options.until_eof else None,
        )
    except (StorageError, CannotListen, OSError) as error:
        sys.stderr.write(f"limehub broker: {error}\n")
        return 4
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="limehub broker")
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 5672))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--user", type=_user, action="append", default=[])
    parser.add_argument("--vhost", action="append")
    parser.add_argument("--memory-share", type=float, default=MEMORY_SHARE)
    parser.add_argument("--until-eof", action="store_true", help="serve until stdin ends")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--log-format", choices=("text", "json"))
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _user(text: str) -> tuple[str, str]:
    """Read `NAME:PASSWORD_FILE`."""
    name, colon, file = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be NAME:PASSWORD_FILE")
    return name, Path(file).read_text().rstrip("\n")


def _say_ready(host: str, port: int) -> None:
    # Not through a buffer: who started the broker may have gone, and Python would tell it twice.
    with contextlib.suppress(OSError):
        os.write(1, f"ready {host}:{port}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
