"""`limehub dlq` as an operator types it: what it prints, what it changes, how it exits."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import declare_queue, dlq_spec, handler_queue_spec
from limehub.cli import run
from limehub.config import runfile
from limehub.config.runfile import RunInfo
from tests.support.letters import APP, DLQ, QUEUE, dead, fill
from tests.support.process import LimehubProcess, Workplace, install_plugin
from tests.support.proxy import Proxy
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

COUNT = 1500
ABOUT_A_HUNDRED = 200_000
"""Bytes of dead letters."""
PLUGIN = """
raise AssertionError("names are enough: `dlq` imports no plugin")
"""


@frozen(kw_only=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Dlq = Callable[..., Result]


@pytest.fixture
def publisher(vhost: Vhost) -> Iterator[Publisher]:
    publisher = Publisher(vhost.url, timeout=60)
    for spec in (dlq_spec(DLQ), handler_queue_spec(QUEUE)):
        publisher.call(lambda connection, spec=spec: declare_queue(connection, spec))
    yield publisher
    publisher.close()


@pytest.fixture
def folder(
    vhost: Vhost, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with limehub.toml and an installed package, as the current one."""
    install_plugin(tmp_path / "site", APP, PLUGIN)
    install_plugin(tmp_path / "site", "solution-quiet", PLUGIN)
    (tmp_path / "limehub.toml").write_text(
        f'applications = ["acme"]\nevents.connection_string = "{vhost.url}"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


@pytest.fixture
def dlq(folder: Path, capsys: pytest.CaptureFixture[str]) -> Dlq:
    """Runs `limehub dlq ...` here."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(["dlq", *arguments])
        captured = capsys.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def three(publisher: Publisher) -> Publisher:
    """Three dead letters, id-1 to id-3."""
    for number in (1, 2, 3):
        publisher.send(dead(number))
    return publisher


def test_without_an_app_all_packages_are_listed_with_their_counts(
    dlq: Dlq, three: Publisher
) -> None:
    listed = dlq("list", "--json")
    counts = {one["app"]: (one["queue"], one["total"]) for one in listed.json}
    assert counts[APP] == (DLQ, 3)
    assert counts["solution-quiet"] == ("lime.event_handler.solution-quiet.dlq", 0)
    lines = dlq("list").out.splitlines()
    assert [line.split() for line in lines if line.startswith(APP)] == [[APP, "3", DLQ]]
    assert (listed.code, listed.err) == (0, "")


def test_a_list_is_a_table_for_people(dlq: Dlq, three: Publisher) -> None:
    result = dlq("list", APP, "--limit", "2")
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["ID", "FAILED", "AT"]
    assert lines[1].startswith("id-1 ")
    assert "shop.NoPrice: deal 1 has no price" in lines[1]
    assert lines[-2:] == [f"2 of 3 in {DLQ}", "next page: --after id-2"]
    assert result.code == 0


def test_a_list_is_the_documented_json_for_programs(dlq: Dlq, three: Publisher) -> None:
    page = dlq("list", APP, "--limit", "2", "--json").json
    assert sorted(page) == sorted(
        ["app", "queue", "total", "matched", "items", "next", "complete", "as_of"]
    )
    assert (page["total"], page["next"], len(page["items"])) == (3, "id-2", 2)
    rest = dlq("list", APP, "--after", "id-2", "--json").json
    assert [item["id"] for item in rest["items"]] == ["id-3"]


def test_a_list_can_be_filtered(dlq: Dlq, three: Publisher) -> None:
    result = dlq(
        *("list", APP, "--text", "deal 2", "--since", "1h", "--exception-type", "NoPrice"),
        *("--routing-key", "core.#", "--handler", "totals", "--application", "acme"),
    )
    assert "id-2" in result.out
    assert f"1 of 1 that match, of 3 in {DLQ}" in result.out
    assert dlq("list", APP, "--until", "2020-01-01", "--json").json["matched"] == 0


def test_an_empty_list_is_done(dlq: Dlq) -> None:
    result = dlq("list", "solution-quiet")
    assert (result.code, result.err) == (0, "")
    assert "no dead letters" in result.out


def test_an_unknown_app_exits_with_one_and_the_nearest_name(dlq: Dlq) -> None:
    result = dlq("list", "solution-dealz")
    assert (result.code, result.out) == (1, "")
    assert "did you mean solution-deals?" in result.err


def test_one_dead_letter_is_shown_for_people_and_for_programs(dlq: Dlq, three: Publisher) -> None:
    text = dlq("show", APP, "id-2").out
    for part in ("shop.py:12 in totals", "Traceback (most", "body (json)", '"id": 2'):
        assert part in text
    whole = dlq("show", APP, "id-2", "--json").json
    assert (whole["id"], whole["body"], whole["body_encoding"]) == ("id-2", {"id": 2}, "json")
    assert dlq("show", APP, "id-9").code == 1


def test_requeue_sends_one_back_and_says_what_remains(
    dlq: Dlq, three: Publisher, vhost: Vhost
) -> None:
    result = dlq("requeue", APP, "--id", "id-2", "--json")
    answer = result.json
    assert (result.code, len(answer.pop("operation"))) == (0, 36)
    assert answer == {"requeued": 1, "failed": [], "failed_total": 0, "remaining": 2}
    assert vhost.depth(QUEUE) == 1


def test_delete_removes_what_a_filter_means(dlq: Dlq, three: Publisher, vhost: Vhost) -> None:
    result = dlq("delete", APP, "--text", "deal 3")
    assert (result.code, result.out.splitlines()[0]) == (0, "deleted 1, failed 0, remaining 2")
    assert vhost.depth(DLQ) == 2


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_everything_must_be_asked_for_in_words(
    dlq: Dlq, three: Publisher, vhost: Vhost, verb: str
) -> None:
    refused = dlq(verb, APP)
    assert refused.code == 2
    assert "--all" in refused.err
    assert dlq(verb, APP, "--all", "--text", "x").code == 2
    assert vhost.depth(DLQ) == 3
    assert dlq(verb, APP, "--all").code == 0
    assert vhost.depth(DLQ) == 0


def test_a_trial_takes_the_oldest_only(dlq: Dlq, three: Publisher) -> None:
    assert dlq("requeue", APP, "--limit", "1", "--json").json["remaining"] == 2
    assert [item["id"] for item in dlq("list", APP, "--json").json["items"]] == ["id-2", "id-3"]


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_nothing_matched_exits_with_one(dlq: Dlq, three: Publisher, verb: str) -> None:
    result = dlq(verb, APP, "--text", "absent")
    assert (result.code, result.out) == (1, "")
    assert "limehub dlq list" in result.err
    by_id = dlq(verb, APP, "--id", "id-9", "--json")
    assert (by_id.code, by_id.json["failed"][0]["id"]) == (1, "id-9")


def test_what_cannot_go_back_is_named_and_can_go_elsewhere(
    dlq: Dlq, publisher: Publisher, vhost: Vhost
) -> None:
    publisher.send(dead(1, queue=f"lime.event_handler.{APP}.gone"))
    result = dlq("requeue", APP, "--all")
    assert result.code == 1
    assert "requeued 0, failed 1, remaining 1" in result.out
    assert "gone does not exist" in result.out
    assert dlq("requeue", APP, "--all", "--to", QUEUE).code == 0
    assert vhost.depth(QUEUE) == 1


def test_the_broker_of_the_running_server_wins_over_the_file(
    dlq: Dlq, folder: Path, three: Publisher, vhost: Vhost
) -> None:
    config = folder / "limehub.toml"
    config.write_text('events.connection_string = "amqp://guest@localhost:1//"\n')
    assert dlq("list", APP).code == 4
    runfile.write(config, RunInfo(pid=os.getpid(), amqp_url=vhost.url))
    assert dlq("list", APP, "--json").json["total"] == 3


def test_hostile_text_cannot_move_the_cursor(dlq: Dlq, publisher: Publisher) -> None:
    publisher.send(dead(1, routing_key="a\r\nb\x1b[2J", headers={"x\x1b[1m": "\x07"}))
    for text in (dlq("list", APP).out, dlq("show", APP, "id-1").out):
        assert "\\x1b" in text
        assert text.replace("\n", "").isprintable()


def test_groups_are_counted_and_one_can_be_requeued_as_a_trial(
    dlq: Dlq, three: Publisher, vhost: Vhost
) -> None:
    text = dlq("groups", APP).out
    assert "shop.NoPrice" in text
    assert "deal 3 has no price" in text
    (group,) = dlq("groups", "--app", APP, "--json").json["groups"]
    assert (group["count"], group["where"], group["example"]) == (3, "shop.py:12 in totals", "id-3")
    tried = dlq("requeue", APP, "--group", group["group"], "--trial", "2", "--json").json
    assert (tried["requeued"], tried["remaining"]) == (2, 1)
    assert dlq("requeue", APP, "--group", "none").code == 1


def test_a_deletion_is_listed_and_undone(dlq: Dlq, three: Publisher, vhost: Vhost) -> None:
    deleted = dlq("delete", APP, "--id", "id-1", "--id", "id-2")
    hint = deleted.out.splitlines()[-1]
    assert f"limehub dlq undo {APP} " in hint
    operation = hint.split()[-1]
    (listed,) = dlq("undo", APP, "--json").json
    assert (listed["operation"], listed["count"]) == (operation, 2)
    assert operation in dlq("undo", APP).out
    undone = dlq("undo", APP, operation)
    assert (undone.code, undone.out) == (0, "restored 2, failed 0, remaining 3\n")
    assert dlq("undo", APP, operation).code == 1
    assert "nothing was deleted" in dlq("undo", APP).out


def test_what_is_deleted_for_good_cannot_be_undone(dlq: Dlq, three: Publisher) -> None:
    assert dlq("delete", APP, "--all", "--for-good").out == "deleted 3, failed 0, remaining 0\n"
    assert dlq("undo", APP, "--json").json == []


def test_an_export_is_json_lines_in_a_file_or_on_standard_output(
    dlq: Dlq, folder: Path, three: Publisher, vhost: Vhost
) -> None:
    assert dlq("export", APP, "-o", "letters.jsonl", "--text", "deal 2").code == 0
    (line,) = (folder / "letters.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], json.loads(line)["body"]) == ("id-2", {"id": 2})
    lines = dlq("export", APP, "--limit", "2").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["id-1", "id-2"]
    assert vhost.depth(DLQ) == 3


def test_app_and_id_can_be_said_as_options(dlq: Dlq, three: Publisher) -> None:
    assert dlq("list", "--app", APP, "--json").json["total"] == 3
    assert dlq("show", "--app", APP, "--id", "id-2", "--json").json["id"] == "id-2"
    assert dlq("delete", "--app", APP, "--id", "id-2", "--json").json["deleted"] == 1
    for command in (("groups",), ("show",), ("requeue", "--all"), ("undo",), ("export",)):
        assert dlq(*command).code == 2


def test_the_audit_file_names_who_did_what(dlq: Dlq, folder: Path, three: Publisher) -> None:
    with (folder / "limehub.toml").open("a") as file:
        file.write('web.audit_file = "audit.jsonl"\n')
    dlq("requeue", APP, "--id", "id-1")
    (line,) = (folder / "audit.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["actor"].endswith("command)") or entry["actor"] == "command"
    assert (entry["action"], entry["app"], entry["what"], entry["count"]) == (
        "requeue",
        APP,
        {"ids": ["id-1"]},
        1,
    )


def test_an_operator_on_a_terminal_is_asked_first(
    folder: Path, three: Publisher, vhost: Vhost
) -> None:
    code, text = on_a_terminal(folder, ["dlq", "delete", APP, "--all"], b"n\n")
    assert code == 1
    assert f"delete 3 of 3 dead letters of {APP}? [y/N]" in text
    assert vhost.depth(DLQ) == 3
    code, text = on_a_terminal(folder, ["dlq", "delete", APP, "--limit", "2"], b"y\n")
    assert (code, "deleted 2" in text) == (0, True)
    code, text = on_a_terminal(folder, ["dlq", "delete", APP, "--all", "--yes"], b"")
    assert (code, "[y/N]" in text, vhost.depth(DLQ)) == (0, False, 0)


def on_a_terminal(folder: Path, arguments: list[str], typed: bytes) -> tuple[int, str]:
    """Run limehub in *folder* on a terminal where *typed* is typed; returns (exit code, output)."""
    path = f"{Path(__file__).parents[2]}{os.pathsep}{folder / 'site'}"
    environ = {**os.environ, "PYTHONPATH": path, "TERM": "dumb"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, "-m", "limehub", *arguments], environ)
    os.write(terminal, typed)
    output = b""
    while chunk := _read(terminal):
        output += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode(errors="replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: EIO once the other side is closed
        return b""


def begun(folder: Path, proxy: Proxy, verb: str) -> LimehubProcess:
    """Move all letters with a command in a process of its own; returns in the middle of that."""
    config = f'applications = ["acme"]\nevents.connection_string = "{proxy.url}"\n'
    (folder / "limehub.toml").write_text(config)
    workplace = Workplace(folder=folder, python=Path(sys.executable))
    process = workplace.start(["-m", "limehub", "dlq", verb, APP, "--all", "--json"])
    # What it sends passes through this process: it gets no further while we look.
    wait_until(lambda: proxy.passed["up"] > ABOUT_A_HUNDRED, 60, "some to be moved")
    return process


@pytest.fixture
def many(publisher: Publisher) -> Publisher:
    """COUNT dead letters, numbered from 0."""
    publisher.call(lambda connection: fill(connection, [dead(number) for number in range(COUNT)]))
    return publisher


def test_a_requeue_killed_halfway_may_repeat_events_but_loses_none(
    folder: Path, many: Publisher, vhost: Vhost, proxy: Proxy
) -> None:
    begun(folder, proxy, "requeue").kill()
    wait_until(lambda: len(vhost.connections()) == 1, message="the killed one's to be gone")
    wait_until(lambda: vhost.queues()[DLQ]["unacked"] == 0, message="what it held to be back")
    left = many.call(lambda connection: numbers_in(connection, (DLQ, QUEUE)))
    assert set(left) == set(range(COUNT))


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_ctrl_c_ends_a_move_between_two_events_and_says_what_was_done(
    folder: Path, many: Publisher, proxy: Proxy, verb: str
) -> None:
    process = begun(folder, proxy, verb)
    assert process.stop(signal.SIGINT, timeout=60) == 1
    answer = json.loads(process.text[process.text.index("{") : process.text.rindex("}") + 1])
    moved = answer["requeued" if verb == "requeue" else "deleted"]
    assert (answer["stopped"], answer["failed"], moved + answer["remaining"]) == (True, [], COUNT)
    assert "everything else is where it was" in process.text
    target = {"requeue": QUEUE, "delete": f"{DLQ}.trash"}[verb]
    moved_ones = many.call(lambda connection: numbers_in(connection, (target,)))
    left = many.call(lambda connection: numbers_in(connection, (DLQ,)))
    assert moved_ones == list(range(moved))
    assert left == list(range(moved, COUNT))


def test_an_export_that_is_stopped_says_so_and_leaves_all_in_order(
    folder: Path, many: Publisher
) -> None:
    os.mkfifo(folder / "out.jsonl")
    pipe = os.open(folder / "out.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    written = bytearray()

    def take() -> bool:
        with contextlib.suppress(BlockingIOError):
            written.extend(chunk := os.read(pipe, 65536))
            return bool(chunk)
        return False

    def took_the_last() -> bool:
        has_ended = process.child.poll() is not None  # before the look: it may write and end
        return not take() and has_ended

    workplace = Workplace(folder=folder, python=Path(sys.executable))
    process = workplace.start(["-m", "limehub", "dlq", "export", APP, "-o", "out.jsonl"])
    wait_until(take, 60, "the first letters")  # the pipe has no room for all of them
    process.send(signal.SIGINT)
    wait_until(took_the_last, 60, "the end")
    os.close(pipe)
    assert process.wait() == 1
    assert "stopped:" in process.text
    assert [json.loads(line)["body"]["id"] for line in written.splitlines()] == list(
        range(written.count(b"\n"))
    )
    left = many.call(lambda connection: numbers_in(connection, (DLQ,)))
    assert left == list(range(COUNT))


def test_what_can_be_no_queue_is_no_target(dlq: Dlq, three: Publisher) -> None:
    for name in ("", "a b", "x" * 300):
        result = dlq("requeue", APP, "--all", "--to", name)
        assert (result.code, "--to" in result.err) == (2, True)


def numbers_in(connection: BrokerConnection, queues: tuple[str, ...]) -> list[int]:
    channel = connection.open_channel()
    bodies = []
    for queue in queues:
        while (delivery := channel.get(queue)) is not None:
            bodies.append(delivery.body)
    channel.close()
    return [json.loads(body)["id"] for body in bodies]


def test_the_installed_command_does_it_too(folder: Path, three: Publisher) -> None:
    workplace = Workplace(folder=folder, python=Path(sys.executable))
    counts = workplace.run("dlq", "list", "--json")
    assert (counts.returncode, counts.stderr) == (0, "")
    assert {one["app"]: one["total"] for one in json.loads(counts.stdout)}["solution-quiet"] == 0
    done = workplace.run("dlq", "requeue", APP, "--all", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["requeued"], answer["failed"], answer["remaining"]) == (3, [], 0)
