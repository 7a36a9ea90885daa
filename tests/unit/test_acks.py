"""The ack window against a broker that is strict about tags."""

from __future__ import annotations

import struct

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from limehub.amqp.acks import AckWindow


@define
class Broker:
    """Closes the channel (fails) for a tag that is not unacked, as RabbitMQ does."""

    unacked: set[int] = field(factory=set)

    def hear(self, frame: bytes) -> None:
        kind, channel, size, class_id, method, tag, multiple, end = struct.unpack(
            ">BHIHHQBB", frame
        )
        assert (kind, channel, size, class_id, method, end) == (1, 4, 13, 60, 80, 0xCE)
        assert tag in self.unacked, "406 unknown delivery tag"
        self.unacked -= {each for each in self.unacked if each <= tag} if multiple else {tag}


class Window(RuleBasedStateMachine):
    """Deliveries are finished, rejected and collected in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.window = AckWindow(4, self._ask)
        self.broker = Broker()
        self.held: list[int] = []
        self.waiting: set[int] = set()
        self.next_tag = 1

    def _ask(self, _window: AckWindow) -> None:
        self.asked += 1

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        tags = range(self.next_tag, self.next_tag + count)
        self.next_tag += count
        self.held.extend(tags)
        self.broker.unacked.update(tags)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def finish(self, which: int) -> None:
        tag = self.held.pop(which % len(self.held))
        self.window.done(tag)
        self.waiting.add(tag)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def reject(self, which: int) -> None:
        self.collect()  # as the outlet does before any other frame
        tag = self.held.pop(which % len(self.held))
        self.broker.unacked.remove(tag)
        self.window.gone(tag)

    @rule()
    def collect(self) -> None:
        for frame in self.window.collect():
            self.broker.hear(frame)
        self.waiting.clear()
        assert self.broker.unacked == set(self.held)

    @invariant()
    def whoever_waits_has_asked(self) -> None:
        assert not self.waiting or self.asked


TestWindow = Window.TestCase
TestWindow.settings = settings(max_examples=200, stateful_step_count=40)


@given(st.integers(2, 1000))
def test_what_is_done_without_a_gap_is_one_frame(count: int) -> None:
    window = AckWindow(1, lambda _window: None)
    for tag in range(1, count + 1):
        window.done(tag)
    assert len(window.collect()) == 1


def test_one_slow_handler_holds_back_nothing_and_its_end_closes_the_gap() -> None:
    window = AckWindow(1, lambda _window: None)
    for tag in range(2, 6):
        window.done(tag)
    assert len(window.collect()) == 4
    window.done(1)
    assert len(window.collect()) == 1
    window.done(6)
    window.done(7)
    assert len(window.collect()) == 1


def test_a_window_asks_once_until_it_is_collected() -> None:
    asked: list[AckWindow] = []
    window = AckWindow(1, asked.append)
    for tag in (1, 2, 3):
        window.done(tag)
    assert asked == [window]
    window.collect()
    window.done(4)
    assert asked == [window, window]
    assert window.collect()
    assert window.collect() == []
