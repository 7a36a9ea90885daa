"""A network namespace with one cable to this machine, on which frames can be made to vanish."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
from typing import Self

from attrs import define, field

__all__ = ["NamespacesUnavailable", "Network"]

NOWHERE = "02:00:00:00:00:01"  # a locally administered address that nobody has


class NamespacesUnavailable(Exception):
    """This machine, or this user, may not make network namespaces; the text says why."""


def _random_block() -> str:
    # 198.18.0.0/15 is set aside for tests of networks (RFC 2544), so no route is hidden.
    return f"198.{random.choice((18, 19))}.{random.randrange(256)}.{random.randrange(0, 256, 4)}"


@define(eq=False)
class Network:
    """`with Network() as network:`; commands run in it with `network.prefix` before them.

    `here` is this machine's address on the cable, `there` the namespace's. Frames vanish below
    TCP, by a wrong neighbour entry: a firewall's reject or a closed port would answer.
    """

    name: str = field(factory=lambda: f"lh{random.randrange(1 << 32):08x}")
    _block: str = field(factory=_random_block)

    def __enter__(self) -> Self:
        if shutil.which("ip") is None:
            raise NamespacesUnavailable("no command `ip` (package iproute2)")
        try:
            self._lay_cable()
        except subprocess.CalledProcessError as error:
            self._remove()
            reason = error.stderr.decode(errors="replace").strip()
            raise NamespacesUnavailable(f"{' '.join(error.cmd)}: {reason}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to write before a command that is to run in the namespace."""
        return ("ip", "netns", "exec", self.name)

    @property
    def here(self) -> str:
        """The address of this machine, as seen from the namespace."""
        return self._address(1)

    @property
    def there(self) -> str:
        """The namespace's own address."""
        return self._address(2)

    def vanish(self) -> None:
        """Lose every frame in both directions, silently."""
        self._neighbour(self.here, NOWHERE, self._far, inside=True)
        self._neighbour(self.there, NOWHERE, self._near, inside=False)

    def return_(self) -> None:
        """Pass frames on again."""
        self._ip("neigh", "del", self.here, "dev", self._far, inside=True)
        self._ip("neigh", "del", self.there, "dev", self._near)

    @property
    def _near(self) -> str:
        return f"{self.name}a"

    @property
    def _far(self) -> str:
        return f"{self.name}b"

    def _address(self, host: int) -> str:
        start, _, last = self._block.rpartition(".")
        return f"{start}.{int(last) + host}"

    def _lay_cable(self) -> None:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", self._near, "type", "veth", "peer", self._far, "netns", self.name)
        self._ip("addr", "add", f"{self.here}/30", "dev", self._near)
        self._ip("addr", "add", f"{self.there}/30", "dev", self._far, inside=True)
        self._ip("link", "set", self._near, "up")
        self._ip("link", "set", self._far, "up", inside=True)
        self._ip("link", "set", "lo", "up", inside=True)

    def _neighbour(self, address: str, hardware: str, device: str, *, inside: bool) -> None:
        self._ip(
            "neigh", "replace", address, "lladdr", hardware, "dev", device, "nud", "permanent",
            inside=inside,
        )  # fmt: skip

    def _ip(self, *arguments: str, inside: bool = False) -> None:
        where = ["-n", self.name] if inside else []
        subprocess.run(["ip", *where, *arguments], check=True, capture_output=True)

    def _remove(self) -> None:
        # Whoever still runs in the namespace keeps it alive, but not its name and cable.
        for arguments in (("link", "del", self._near), ("netns", "del", self.name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip(*arguments)
