"""A move, from the first letter that is meant to the last: what is confirmed is taken out."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from limehub.amqp.delivery import Delivery
from limehub.deadletters.item import DeadLetter
from limehub.deadletters.movers import Mover, Tally
from limehub.deadletters.reading import Reader
from limehub.deadletters.results import Verb
from limehub.deadletters.walk import Walk
from limehub.errors import BrokerError, ConnectionLost

__all__ = ["Chosen", "Move"]

Chosen = Callable[[DeadLetter, Delivery], bool]


@frozen(kw_only=True)
class Move:
    """Moves what is *chosen* (None = everything), the first *limit* of it (None = all), by what
    *mover_of* makes."""

    reader: Reader
    verb: Verb
    chosen: Chosen | None
    limit: int | None
    mover_of: Callable[[Walk, Tally], Mover]

    def __call__(self, walk: Walk, tally: Tally) -> int:
        """Do it; returns how many remain in the queue. Raises ConnectionLost.

        However it ends, nothing is on its way any more.
        """
        mover = self.mover_of(walk, tally)
        try:
            self._pick(walk, mover, tally)
            mover.finish()
            return walk.close()
        except BrokerError as error:
            mover.finish()
            raise ConnectionLost(
                f"{error}; {tally.done} were {self.verb} before, the last of them may still be "
                "there too"
            ) from error
        finally:
            mover.abandon()

    def _pick(self, walk: Walk, mover: Mover, tally: Tally) -> None:
        most = self.limit if self.chosen is None else None
        for letter, delivery in self.reader.letters(walk, tally.progress, most=most):
            if self.chosen is not None and not self.chosen(letter, delivery):
                continue
            tally.found.add(letter.id)
            mover.start(letter, delivery)
            if tally.trouble or len(tally.found) == self.limit:
                return
        tally.stopped = tally.progress.stop and tally.progress.seen < walk.total
