"""The pool: as many side by side as allowed, no wake-up lost, nobody left over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import gevent
import pytest
from attrs import define, field
from gevent.event import Event as Signal

from limehub.workers.pool import WorkerPool
from tests.support.waiting import wait_until


@define(eq=False)
class Bench:
    """Work for a pool, offered as the group does it: one offer a put, one more while some waits."""

    concurrency: int
    work: deque[Callable[[], None]] = field(factory=deque)
    running: int = 0
    most: int = 0
    finished: int = 0
    pool: WorkerPool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pool = WorkerPool("test", self.concurrency, self.step)

    def put(self, job: Callable[[], None]) -> None:
        self.work.append(job)
        self.pool.offer()

    def step(self) -> bool:
        if not self.work:
            return False
        job = self.work.popleft()
        if self.work:
            self.pool.offer()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            job()
        finally:
            self.running -= 1
            self.finished += 1
        return True


def end(bench: Bench) -> None:
    bench.pool.close()
    assert bench.pool.join(30)


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_as_many_run_side_by_side_as_allowed_and_no_more(concurrency: int) -> None:
    bench, gate = Bench(concurrency), Signal()
    for _ in range(60):
        bench.put(gate.wait)
    wait_until(lambda: bench.running == min(concurrency, 60))
    gate.set()
    wait_until(lambda: bench.finished == 60)
    assert bench.most == concurrency
    assert bench.pool.size == concurrency
    end(bench)


def test_a_handler_that_waits_delays_no_other() -> None:
    bench, gate = Bench(2), Signal()
    bench.put(gate.wait)
    for _ in range(100):
        bench.put(lambda: None)
    wait_until(lambda: bench.finished == 100)
    assert bench.running == 1
    gate.set()
    wait_until(lambda: bench.finished == 101)
    end(bench)


def test_handlers_that_never_wait_need_one_worker() -> None:
    bench = Bench(100)
    for _ in range(1_000):
        bench.put(lambda: None)
    wait_until(lambda: bench.finished == 1_000)
    assert bench.pool.size < 20, "one, and another where a slice of time did not suffice"
    end(bench)


def test_handlers_that_never_wait_let_the_hub_turn() -> None:
    bench = Bench(1)
    finished_at_turn: list[int] = []

    def turn() -> None:
        for _ in range(5):
            gevent.sleep(0.001)
            finished_at_turn.append(bench.finished)

    timer = gevent.spawn(turn)

    def burn() -> None:
        sum(range(20_000))

    for _ in range(1_000):
        bench.work.append(burn)
    bench.pool.offer()
    timer.join(30)
    assert len(finished_at_turn) == 5
    assert finished_at_turn[-1] < 1_000
    bench.work.clear()
    end(bench)


def test_a_worker_that_was_idle_is_woken_again_and_again() -> None:
    bench = Bench(1)
    for number in range(200):
        bench.put(lambda: None)
        wait_until(lambda number=number: bench.finished == number + 1, interval=0)
    assert bench.pool.size == 1
    end(bench)


def test_a_pool_that_grows_takes_up_what_waits() -> None:
    bench, gate = Bench(1), Signal()
    for _ in range(5):
        bench.put(gate.wait)
    wait_until(lambda: bench.running == 1)
    bench.pool.resize(5)
    wait_until(lambda: bench.running == 5)
    gate.set()
    wait_until(lambda: bench.finished == 5)
    end(bench)


def test_a_pool_that_shrinks_finishes_what_runs_and_loses_no_work() -> None:
    bench, gate = Bench(10), Signal()
    for _ in range(10):
        bench.put(gate.wait)
    wait_until(lambda: bench.running == 10)
    bench.pool.resize(2)
    for _ in range(30):
        bench.put(lambda: gevent.sleep(0.001))
    gate.set()
    wait_until(lambda: bench.finished == 40)
    bench.most = 0
    for _ in range(30):
        bench.put(lambda: gevent.sleep(0.001))
    wait_until(lambda: bench.finished == 70)
    assert bench.most <= 2
    assert bench.pool.size <= 2
    end(bench)


def test_a_pool_shrunk_while_idle_still_works() -> None:
    bench, gate = Bench(10), Signal()
    for _ in range(10):
        bench.put(gate.wait)
    wait_until(lambda: bench.running == 10)
    gate.set()
    wait_until(lambda: bench.finished == 10)
    bench.pool.resize(1)
    for _ in range(20):
        bench.put(lambda: gevent.sleep(0.001))
    wait_until(lambda: bench.finished == 30)
    assert bench.pool.size == 1
    end(bench)


def test_a_worker_that_dies_hands_over_what_waits() -> None:
    bench = Bench(1)

    def die() -> None:
        raise gevent.GreenletExit

    bench.put(die)
    bench.put(lambda: None)
    wait_until(lambda: bench.finished == 2)
    end(bench)


def test_a_closed_pool_takes_no_more_and_ends_after_what_runs() -> None:
    bench, gate = Bench(2), Signal()
    bench.put(gate.wait)
    wait_until(lambda: bench.running == 1)
    bench.pool.close()
    bench.put(lambda: None)
    assert not bench.pool.join(0.01)
    gate.set()
    assert bench.pool.join(30)
    assert bench.finished == 1
    assert len(bench.work) == 1


def test_kill_says_how_many_still_ran() -> None:
    bench, gate = Bench(3), Signal()
    for _ in range(3):
        bench.put(gate.wait)
    wait_until(lambda: bench.running == 3)
    bench.pool.close()
    assert bench.pool.kill() == 3
    assert bench.pool.join(30)
    assert bench.pool.kill() == 0


def test_kill_forgets_a_worker_that_never_got_to_run() -> None:
    bench = Bench(1)
    bench.put(lambda: None)
    bench.pool.close()
    bench.pool.kill()
    assert bench.pool.join(30)
