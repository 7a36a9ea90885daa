"""A home: callable from every thread, in a patched process and in one that is not."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import gevent
import pytest
from gevent.threadpool import ThreadPool

from limehub.amqp.home import Home


def test_here_a_call_is_a_call() -> None:
    home = Home()
    assert home.is_here
    assert home.run(lambda: 7) == 7
    home.close()


def test_an_error_is_raised_where_the_call_was_made() -> None:
    home, pool = Home(), ThreadPool(1)

    def fail() -> None:
        raise KeyError("at home")

    with pytest.raises(KeyError, match="at home"):
        home.run(fail)
    with pytest.raises(KeyError, match="at home"):
        pool.spawn(home.run, fail).get(timeout=30)
    pool.kill()
    home.close()


def test_native_threads_run_at_home_side_by_side() -> None:
    home, pool = Home(), ThreadPool(4)
    together = gevent.lock.BoundedSemaphore(4)

    def meet() -> bool:
        together.acquire()
        while together.counter:
            gevent.sleep(0.001)
        return home.is_here

    with gevent.Timeout(30):
        calls = [pool.spawn(lambda: (home.is_here, home.run(meet))) for _ in range(4)]
        assert [call.get() for call in calls] == [(False, True)] * 4
    pool.kill()
    home.close()


def unpatched(code: str) -> str:
    """Run *code* in a process without monkey patching; returns what it printed."""
    prologue = """
        import threading
        import gevent
        from limehub.amqp.home import Home
        """
    source = textwrap.dedent(prologue) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_patching_a_home_has_a_thread_of_its_own_for_all_threads() -> None:
    said = unpatched(
        """
        home = Home()
        assert not home.is_here
        together, answers = [], []
        def meet():
            together.append(home.is_here)
            while len(together) < 20:
                gevent.sleep(0.001)
            return home.is_here
        def call():
            answers.append(home.run(meet))
        threads = [threading.Thread(target=call) for _ in range(20)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(answers.count(True))
        home.close()
        """
    )
    assert said == "20\n"


def test_without_patching_an_error_comes_back_and_the_home_goes_on() -> None:
    said = unpatched(
        """
        home = Home()
        for error in (ValueError, SystemExit, gevent.GreenletExit):
            def fail():
                raise error("at home")
            try:
                home.run(fail)
            except error as raised:
                print(raised)
        print(home.run(lambda: "still here"))
        """
    )
    assert said == "at home\n" * 3 + "still here\n"


def test_without_patching_a_process_ends_though_nobody_closed_the_home() -> None:
    assert unpatched("print(Home().run(lambda: 1))") == "1\n"
