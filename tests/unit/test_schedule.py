"""The schedule against a naive model: nothing is lost, order holds, nobody starves."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from limehub.workers.schedule import Order, Schedule


@define(eq=False)
class Item:
    queue: str
    key: Hashable = None
    number: int = 0


@define(eq=False)
class Model:
    """The same rules, said slowly: lists of what waits, what is due, what holds its turn."""

    orders: dict[str, Order]
    waiting: list[Item] = field(factory=list)
    due: list[Item] = field(factory=list)
    running: list[Item] = field(factory=list)

    def may_start(self, item: Item) -> bool:
        """Whether *item* may start: nothing before it or beside it forbids that."""
        held = [each for each in (*self.running, *self.due) if each.queue == item.queue]
        older = [each for each in self.waiting if each.queue == item.queue]
        older = older[: older.index(item)]
        match self.orders[item.queue]:
            case "queue":
                return not held and not older
            case "object":
                same = [each for each in (*held, *older) if each.key == item.key]
                return item.key is None or not same
            case _:
                return not older

    def startable(self) -> list[Item]:
        return [item for item in self.waiting if self.may_start(item)]


QUEUES: dict[str, Order] = {"a.queue": "queue", "b.object": "object", "c.none": "none"}

puts = st.tuples(
    st.just("put"), st.sampled_from(list(QUEUES)), st.sampled_from([None, "x", "y", "z"])
)
steps = st.lists(
    st.one_of(
        puts,
        puts,
        st.tuples(st.just("take"), st.none(), st.none()),
        st.tuples(st.just("done"), st.integers(0, 9), st.none()),
        st.tuples(st.just("resume"), st.integers(0, 9), st.none()),
        st.tuples(st.just("drain"), st.sampled_from([None, *QUEUES]), st.none()),
    ),
    max_size=80,
)


def new_schedule(orders: dict[str, Order]) -> Schedule[Item]:
    schedule: Schedule[Item] = Schedule()
    for queue, order in orders.items():
        schedule.add_queue(queue, order, lambda item: item.key)
    return schedule


def take(schedule: Schedule[Item], model: Model) -> Item | None:
    item = schedule.take()
    if item is None:
        assert not model.due, "a retry that is due was not taken"
        assert not model.startable(), "an item that may run was not taken"
    elif model.due:
        assert item is model.due.pop(0)
        model.running.append(item)
    else:
        assert model.may_start(item)
        model.waiting.remove(item)
        model.running.append(item)
    return item


def drain(schedule: Schedule[Item], model: Model, queue: str | None) -> None:
    gone = schedule.drain(queue)
    expected = [i for i in (*model.due, *model.waiting) if queue in (None, i.queue)]
    assert len(gone) == len(expected)
    assert set(gone) == set(expected)
    model.due = [item for item in model.due if item not in expected]
    model.waiting = [item for item in model.waiting if item not in expected]


@settings(max_examples=300)
@given(steps)
def test_any_history_keeps_order_loses_nothing_and_never_idles(history: list[tuple]) -> None:
    schedule, model = new_schedule(QUEUES), Model(QUEUES)
    for number, (word, which, key) in enumerate(history):
        if word == "put":
            item = Item(which, key, number)
            schedule.put(item)
            model.waiting.append(item)
        elif word == "take":
            take(schedule, model)
        elif word == "drain":
            drain(schedule, model, which)
        elif model.running:
            item = model.running.pop(which % len(model.running))
            if word == "done":
                schedule.done(item)
            else:
                schedule.resume(item)
                model.due.append(item)
        assert schedule.waiting == len(model.waiting)
    while model.waiting or model.due or model.running:
        while take(schedule, model) is not None:
            pass
        assert model.running, "items wait, nothing runs, nothing may run: idle for ever"
        schedule.done(model.running.pop())


@given(st.lists(st.integers(0, 12), min_size=2, max_size=8))
def test_queues_take_turns_so_that_none_gets_two_before_another_gets_one(sizes: list[int]) -> None:
    queues = [f"q{number}" for number in range(len(sizes))]
    schedule = new_schedule(dict.fromkeys(queues, "none"))
    for queue, size in zip(queues, sizes, strict=True):
        for number in range(size):
            schedule.put(Item(queue, None, number))
    left, taken = dict(zip(queues, sizes, strict=True)), dict.fromkeys(queues, 0)
    while (item := schedule.take()) is not None:
        taken[item.queue] += 1
        left[item.queue] -= 1
        assert all(taken[item.queue] - taken[other] <= 1 for other in queues if left[other] > 0)
    assert not any(left.values())


def test_a_million_row_import_delays_another_queue_by_one_item_only() -> None:
    schedule = new_schedule({"big": "none", "small": "none"})
    for number in range(1_000):
        schedule.put(Item("big", None, number))
    assert schedule.take() is not None
    schedule.put(Item("small"))
    assert "small" in {item.queue for item in (schedule.take(), schedule.take()) if item}


@pytest.mark.parametrize("order", ["queue", "object"])
def test_a_lost_connection_frees_the_turn_of_a_retry_that_was_due(order: Order) -> None:
    schedule = new_schedule({"q": order})
    schedule.put(first := Item("q", "x"))
    assert schedule.take() is first
    schedule.resume(first)
    assert schedule.drain() == [first]
    schedule.put(again := Item("q", "x"))
    assert schedule.take() is again


def test_a_lost_connection_keeps_the_turn_of_what_still_runs() -> None:
    schedule = new_schedule({"q": "queue"})
    schedule.put(first := Item("q"))
    schedule.take()
    assert schedule.drain() == []
    schedule.put(again := Item("q"))
    assert schedule.take() is None
    assert schedule.done(first)
    assert schedule.take() is again


def test_a_resumed_item_goes_before_all_that_wait() -> None:
    schedule = new_schedule({"q": "none"})
    for number in range(3):
        schedule.put(Item("q", None, number))
    first = schedule.take()
    assert first is not None
    schedule.resume(first)
    assert schedule.take() is first


def test_events_of_one_object_run_one_by_one_while_others_pass() -> None:
    schedule = new_schedule({"q": "object"})
    items = [Item("q", key, number) for number, key in enumerate("xxyxz")]
    for item in items:
        schedule.put(item)
    assert [schedule.take(), schedule.take(), schedule.take()] == [items[0], items[2], items[4]]
    assert schedule.take() is None
    assert schedule.done(items[0])
    assert schedule.take() is items[1]
    assert schedule.take() is None
    assert schedule.done(items[1])
    assert schedule.take() is items[3]


@pytest.mark.parametrize("order", ["queue", "object"])
def test_who_ends_without_having_a_turn_ends_nobody_elses(order: Order) -> None:
    schedule = new_schedule({"q": order})
    items = [Item("q", "x", number) for number in range(3)]
    for item in items:
        schedule.put(item)
    assert schedule.take() is items[0]
    assert schedule.done(items[0])
    assert schedule.take() is items[1]
    assert not schedule.done(items[0])
    assert schedule.take() is None
    assert schedule.done(items[1])
    assert schedule.take() is items[2]


def test_an_event_that_names_no_object_waits_for_nobody() -> None:
    schedule = new_schedule({"q": "object"})
    items = [Item("q", None, number) for number in range(3)]
    for item in items:
        schedule.put(item)
    assert [schedule.take() for _ in items] == items


def test_done_says_whether_another_may_run() -> None:
    schedule = new_schedule({"q": "queue"})
    schedule.put(first := Item("q"))
    schedule.put(second := Item("q"))
    assert schedule.take() is first
    assert schedule.done(first) is True
    assert schedule.take() is second
    assert schedule.done(second) is False


def test_draining_one_queue_leaves_the_others() -> None:
    schedule = new_schedule({"a": "none", "b": "none"})
    schedule.put(Item("a"))
    schedule.put(kept := Item("b"))
    assert len(schedule.drain("a")) == 1
    assert (schedule.waiting_of("a"), schedule.waiting_of("b")) == (0, 1)
    assert schedule.take() is kept
