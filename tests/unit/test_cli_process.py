"""`limehub` as people call it: real processes, no broker."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from limehub.config.template import TEMPLATE
from tests.support.process import Workplace, make_interpreter

PLUGIN = """
import click

print("a plugin that prints when it is imported")

def deal(event): pass

def register_event_handlers(worker, config):
    worker.register_event_handler(deal, "core.limeobject.deal.*.v1", retry=[5, 600])

def register_commands(cli):
    @cli.command("deal-report")
    def deal_report():
        "Report all deals."
        click.echo("all is well")
        return 7

    @cli.command("check")
    def check():
        click.echo("not yours")

    @cli.command("fail")
    def fail():
        raise ValueError("a bug")
"""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_interpreter(tmp_path_factory.mktemp("venv"))


@pytest.fixture
def place(tmp_path: Path, interpreter: Path) -> Iterator[Workplace]:
    """A folder with an empty limehub.toml; a broker that would be asked is refused at once."""
    place = Workplace(folder=tmp_path, python=interpreter)
    place.configure('events.connection_string = "amqp://guest@127.0.0.1:1//"')
    yield place
    place.close()


def test_init_writes_the_template_and_does_not_overwrite_it(place: Workplace) -> None:
    place.config_file.unlink()
    assert place.run("init").returncode == 0
    assert place.config_file.read_text() == TEMPLATE
    place.configure("# mine")
    again = place.run("init")
    assert (again.returncode, place.config_file.read_text()) == (2, "# mine")
    assert "--force" in again.stderr
    assert place.run("init", "--force").returncode == 0
    assert place.config_file.read_text() == TEMPLATE


@pytest.mark.parametrize(
    "command", ["serve", "plugins", "config show", "publish a", "explain a", "dlq list"]
)
def test_without_a_configuration_every_command_says_how_to_get_one(
    place: Workplace, command: str
) -> None:
    place.config_file.unlink()
    done = place.run(*command.split())
    assert done.returncode == 2
    assert done.stderr.startswith("limehub: no limehub.toml in ")
    assert "limehub init" in done.stderr


def test_without_a_configuration_check_says_how_to_get_one(place: Workplace) -> None:
    place.config_file.unlink()
    assert "limehub init" in place.run("check").stdout


def test_each_problem_of_a_configuration_is_a_line_with_its_place(place: Workplace) -> None:
    place.configure('aplications = ["a"]\n[event_handler]\nprefetch_count = "15"\n')
    done = place.run("plugins")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("limehub: limehub.toml:1:1: aplications: ")
    assert second.startswith("limehub: limehub.toml:3:1: event_handler.prefetch_count: ")


def test_the_option_c_works_before_and_after_the_command(place: Workplace) -> None:
    place.config_file.rename(place.folder / "other.toml")
    for arguments in (
        ["-c", "other.toml", "config", "show"],
        ["config", "show", "-c", "other.toml"],
    ):
        done = place.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "amqp://guest@127.0.0.1:1//" in done.stdout


def test_config_show_names_origins_and_masks_secrets(place: Workplace) -> None:
    place.environ["LIMEHUB_EVENTS__CONNECTION_STRING"] = "amqp://bob:hunter2@mq.example/crm"
    done = place.run("config", "show", "--origin", "--json")
    rows = {row["path"]: row for row in json.loads(done.stdout)}
    row = rows["events.connection_string"]
    assert row["origin"] == "env LIMEHUB_EVENTS__CONNECTION_STRING"
    assert row["value"] == "amqp://bob:***@mq.example/crm"
    assert "hunter2" not in done.stdout + place.run("config", "show").stdout


def test_plugins_lists_handlers_and_what_plugins_print_stays_out_of_the_json(
    place: Workplace,
) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("plugins", "--json")
    assert done.returncode == 0
    (plugin,) = json.loads(done.stdout)["plugins"]
    (handler,) = plugin["handlers"]
    assert (handler["handler"], handler["group"]) == ("solution-x.deal", "default")
    assert list(handler["queues"]) == ["lime.event_handler.solution-x.deal"]
    assert "a plugin that prints" in done.stderr


def test_a_broken_plugin_is_named_with_its_place_and_the_others_are_listed(
    place: Workplace,
) -> None:
    place.install("solution-x", PLUGIN)
    place.install("solution-broken", "\nimport nothing_like_it\n")
    done = place.run("plugins")
    assert done.returncode == 3
    assert "lime.event_handler.solution-x.deal" in done.stdout
    assert f"{place.site / 'solution_broken.py'}:2" in done.stdout
    assert "limehub: solution-broken = solution_broken" in done.stdout
    assert "nothing_like_it" in done.stderr


def test_serve_refuses_to_start_with_a_broken_plugin(place: Workplace) -> None:
    place.install("solution-broken", "import nothing_like_it")
    done = place.run("serve")
    assert done.returncode == 3
    assert "solution-broken" in done.stderr
    assert "solution_broken.py:1" in done.stderr


def test_serve_names_the_group_that_was_meant(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("serve", "--worker", "defualt", "--bind", "none")
    assert done.returncode == 2
    assert "did you mean default?" in done.stderr


def test_serve_reports_a_wrong_bind_of_the_command_line_as_such(place: Workplace) -> None:
    done = place.run("serve", "--bind", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("limehub: command line: web.bind: ")


def test_serve_with_fail_fast_ends_when_nobody_answers(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("serve", "--fail-fast", "--bind", "none")
    assert done.returncode == 4
    assert "127.0.0.1:1" in done.stderr


def test_explain_tells_who_gets_an_event_and_what_follows_when_it_fails(
    place: Workplace,
) -> None:
    place.install("solution-x", PLUGIN)
    text = place.run("explain", "core.limeobject.deal.new.v1").stdout
    assert "solution-x.deal" in text
    assert "after 5 s, waiting in the server" in text
    assert "after 10 min, waiting in lime.event_handler.solution-x.deal.retry.600" in text
    assert "lime.event_handler.solution-x.dlq, kept for 30 d" in text
    done = place.run("explain", "core.limeobject.deal.new.v1", "--json")
    (receiver,) = json.loads(done.stdout)["receivers"]
    assert receiver["matching_keys"] == ["core.limeobject.deal.*.v1"]
    assert receiver["on_failure"]["attempts"] == 3


def test_explain_of_a_key_that_nobody_asks_for_names_the_nearest(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("explain", "core.lime.deal.new.v1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["nearest_keys"] == ["core.limeobject.deal.*.v1"]
    assert "did you mean 'core.limeobject.deal.new.v1'?" in done.stderr


def test_explain_of_a_queue_tells_its_handler_and_bindings(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("explain", "lime.event_handler.solution-x.deal", "--json")
    explained = json.loads(done.stdout)
    assert (done.returncode, explained["handler"]) == (0, "solution-x.deal")
    assert explained["bindings"] == [
        {
            "queue": "lime.event_handler.solution-x.deal",
            "exchange": "lime.default",
            "key": "core.limeobject.deal.*.v1",
        }
    ]
    missing = place.run("explain", "lime.event_handler.solution-x.del")
    assert missing.returncode == 1
    assert "did you mean lime.event_handler.solution-x.deal?" in missing.stderr


def test_check_without_a_broker_finds_the_rest_and_ends_with_the_code_of_the_broker(
    place: Workplace,
) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("check", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 4
    assert [(one["kind"], one["level"]) for one in found if one["level"] != "ok"] == [
        ("broker", "error")
    ]
    assert place.run("check", "--offline").returncode == 0


def test_check_with_strict_counts_warnings(place: Workplace) -> None:
    place.install("solution-x", PLUGIN.replace("deal.*.v1", "deal.*"))
    assert place.run("check", "--offline").returncode == 0
    done = place.run("check", "--offline", "--strict")
    assert done.returncode == 1
    assert "has no version" in done.stdout


def test_check_finds_a_token_file_that_is_not_there(place: Workplace) -> None:
    place.configure('web.token_file = "tokens"')
    done = place.run("check", "--offline")
    assert done.returncode == 2
    assert "web.token_file" in done.stdout


def test_check_reports_a_broken_plugin_and_goes_on(place: Workplace) -> None:
    place.install("solution-broken", "import nothing_like_it")
    place.install("solution-x", PLUGIN)
    done = place.run("check", "--offline", "--json")
    found = {(one["level"], one["subject"]) for one in json.loads(done.stdout)}
    assert done.returncode == 3
    assert {("error", "solution-broken"), ("ok", "solution-x")} <= found


def test_publish_says_at_once_that_the_broker_is_unreachable(place: Workplace) -> None:
    done = place.run("publish", "a.b", timeout=30)
    assert done.returncode == 4
    assert done.stderr.startswith("limehub: 127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.b", '{"x": NaN}'], "NaN is no JSON value"),
        (["a.b", "null"], "the body is null"),
        (["a" * 256], "256 bytes long"),
        (["a.b", "--header", "novalue"], "is not NAME=VALUE"),
        (["a.b", "--exchange", "x", "--application", "default"], "exclude each other"),
        (["a.b", "--application", "defualt"], "did you mean default?"),
        (["a.b", "--exchange", "two words"], "--exchange"),
    ],
)
def test_publish_refuses_what_cannot_be_meant(
    place: Workplace, arguments: list[str], words: str
) -> None:
    done = place.run("publish", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_publish_asks_for_the_application_when_there_are_several(place: Workplace) -> None:
    place.configure('applications = ["acme", "umbrella"]')
    done = place.run("publish", "a.b")
    assert done.returncode == 2
    assert "acme, umbrella" in done.stderr


def test_plugins_bring_commands_but_cannot_replace_ours(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("deal-report")
    assert (done.returncode, done.stdout) == (0, "all is well\n")
    assert "not yours" not in place.run("check", "--offline").stdout
    shown = place.run("--help").stdout
    assert "deal-report  Report all deals." in shown


def test_a_broken_plugin_breaks_neither_help_nor_other_commands(place: Workplace) -> None:
    place.install("solution-broken", "raise SystemExit(9)")
    assert place.run("--help").returncode == 0
    assert place.run("config", "show").stderr == ""
    unknown = place.run("deal-report")
    assert unknown.returncode == 2
    assert "solution-broken" in unknown.stderr


def test_a_bug_is_an_internal_error_with_its_traceback(place: Workplace) -> None:
    place.install("solution-x", PLUGIN)
    done = place.run("fail")
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "limehub: internal error: ValueError: a bug"


def test_a_wrong_command_line_is_exit_code_two_with_the_nearest_command(
    place: Workplace,
) -> None:
    done = place.run("chekc")
    assert done.returncode == 2
    assert "did you mean check?" in done.stderr
    assert place.run("check", "--nonsense").returncode == 2


def test_help_imports_neither_broker_client_nor_web_nor_other_commands(
    place: Workplace,
) -> None:
    code = (
        "import sys\n"
        "from limehub.cli import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'pika', 'flask', 'cattrs', 'rich', 'limehub.server', 'limehub.cli.check'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    process = place.start(["-c", code])
    assert process.wait() == 0
    assert process.text.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_news(place: Workplace) -> None:
    read, write = os.pipe()
    os.close(read)
    done = _plain_run(place, ["config", "show"], stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_is_said_in_one_line(place: Workplace) -> None:
    with Path("/dev/full").open("w") as full:
        done = _plain_run(place, ["config", "show"], stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr == "limehub: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(("width", "table"), [("250", True), ("80", False)])
def test_a_terminal_gets_a_table_if_it_is_wide_enough_and_nothing_is_cut(
    place: Workplace, width: str, table: bool
) -> None:
    name = "a_handler_with_a_rather_long_name"
    source = PLUGIN.replace("def deal(", f"def {name}(").replace("(deal,", f"({name},")
    place.install("solution-x", source)
    master, slave = pty.openpty()
    with os.fdopen(slave, "wb"):  # gevent's os.close would leave it open for a while
        done = _plain_run(place, ["plugins"], stdout=slave, NO_COLOR="1", COLUMNS=width)
    text = _written_to(master)
    os.close(master)
    assert done.returncode == 0
    assert ("─" in text) is table
    assert f"lime.event_handler.solution-x.{name}" in text
    assert "…" not in text


def _written_to(terminal: int) -> str:
    """All that was written to *terminal*, the other end of which is closed."""
    text = b""
    with contextlib.suppress(OSError):  # EIO: the end
        while data := os.read(terminal, 65536):
            text += data
    return text.decode()


def test_ctrl_c_ends_a_waiting_command_quietly(place: Workplace) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        url = f"amqp://guest@127.0.0.1:{silent.getsockname()[1]}//"
        place.environ["LIMEHUB_EVENTS__CONNECTION_STRING"] = url
        process = place.start(["-m", "limehub", "publish", "a.b"])
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(8) == b"AMQP\x00\x00\x09\x01"
            process.send(signal.SIGINT)
            assert process.wait() == 130
    assert process.text == ""


def test_a_thread_that_a_plugin_left_behind_does_not_keep_the_process(
    place: Workplace,
) -> None:
    source = "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    place.install("solution-thread", source)
    assert place.run("plugins").returncode == 0


def test_ssl_that_was_imported_too_early_is_said(place: Workplace) -> None:
    code = (
        "import ssl, sys; sys.argv[1:] = ['config', 'show']\n"
        "from limehub.__main__ import main; main()"
    )
    process = place.start(["-c", code])
    assert process.wait() == 0
    assert process.text.startswith("limehub: warning: something imported ssl")


def _plain_run(
    place: Workplace, arguments: list[str], *, stdout: int, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(place.python), "-m", "limehub", *arguments],
        cwd=place.folder,
        env={"PATH": os.defpath, "PYTHONPATH": str(place.site), **environ},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_broker_that_does_not_answer_is_named_with_where_to_look(place: Workplace) -> None:
    done = place.run("publish", "own.key.v1")
    assert done.returncode == 4
    told, hint = done.stderr.splitlines()
    assert told == "limehub: 127.0.0.1:1: Connection refused"
    assert "limehub config show --origin" in hint


def test_arguments_that_are_no_utf_8_are_a_usage_error(place: Workplace) -> None:
    for arguments in (
        ("publish", "own.\udcff"),
        ("publish", "own", "\udcff"),
        ("explain", "\udcff"),
    ):
        done = place.run(*arguments)
        assert done.returncode == 2, arguments
        assert "not UTF-8" in done.stderr
        assert "Traceback" not in done.stderr


def test_an_address_that_is_taken_is_named_by_whoever_wanted_it(place: Workplace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        alone = place.run("broker", "--listen", address)
        place.configure(
            f"[events]\nconnection_string = 'embedded://'\n[broker]\nlisten = '{address}'"
        )
        served = place.run("serve", "--bind", "none")
    assert (alone.returncode, served.returncode) == (4, 4)
    for told in (alone.stderr, served.stderr):
        assert f"cannot listen on {address}: Address already in use; name another" in told


def test_a_setting_that_a_plugin_does_not_take_is_named_with_its_place(place: Workplace) -> None:
    place.install("solution-x", "def default_config():\n    return {'size': 1}\n")
    place.configure("[plugins.solution-x]\nsize = 'big'")
    told = "limehub.toml:2: plugins.solution-x.size: must be a whole number, is a string"
    for command in ("serve", "plugins", "explain a.b.c"):
        done = place.run(*command.split())
        assert (done.returncode, done.stderr) == (2, f"limehub: {told}\n"), command
    assert told.removeprefix("limehub.toml:") in place.run("check").stdout


def test_a_plugin_that_crashes_the_interpreter_is_named_by_its_stack(place: Workplace) -> None:
    place.install("solution-x", "import ctypes\nctypes.string_at(0)\n")
    done = place.run("plugins")
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "solution_x" in done.stderr
