from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from limehub.config import RunInfo, runfile, state_folder


@pytest.fixture
def config_path(tmp_path):
    return tmp_path / "limehub.toml"


def own_info() -> RunInfo:
    return RunInfo(
        pid=os.getpid(),
        amqp_url="amqp://bob:hunter2@mq",
        web_url="http://127.0.0.1:8080",
        started_at="2026-01-02T03:04:05Z",
    )


def run_json(config_path):
    return state_folder(config_path) / "run.json"


def test_what_a_running_server_wrote_is_read(config_path):
    runfile.write(config_path, own_info())
    info = runfile.read(config_path)
    assert info is not None
    assert (info.pid, info.amqp_url) == (os.getpid(), "amqp://bob:hunter2@mq")
    assert (info.web_url, info.health_url) == ("http://127.0.0.1:8080", None)
    assert "hunter2" not in repr(info)


def test_only_the_owner_may_read_it_whatever_the_umask(config_path):
    old = os.umask(0)
    try:
        path = runfile.write(config_path, own_info())
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_write_replaces_the_first_and_leaves_nothing_behind(config_path):
    run = runfile.write(config_path, own_info())
    (run.parent / f"run.json.{os.getpid()}").write_text("left by a crash", encoding="utf-8")
    runfile.write(config_path, own_info())
    assert [file.name for file in run.parent.iterdir()] == ["run.json"]


def test_no_file_is_no_server(config_path):
    assert runfile.read(config_path) is None
    assert runfile.remove(config_path) is False


def test_the_file_of_a_dead_process_counts_for_nothing(config_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    path = runfile.write(config_path, own_info())
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "pid": done.pid}), encoding="utf-8")
    assert runfile.read(config_path) is None


def test_a_reused_pid_is_noticed_by_its_start_time(config_path):
    path = runfile.write(config_path, own_info())
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["pid_ticks"] > 0
    path.write_text(json.dumps({**content, "pid_ticks": 1}), encoding="utf-8")
    assert runfile.read(config_path) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"x"', "{}", '{"pid": 1}', '{"pid": "1", "amqp_url": "x"}'),
        *('{"pid": true, "amqp_url": "x"}', '{"pid": -1, "amqp_url": "x"}', "[" * 100_000),
        *('{"pid": 99999999999999999999, "amqp_url": "x"}', '{"pid": 0, "amqp_url": "x"}'),
        '{"pid": 1, "amqp_url": "x", "web_url": 5}',
    ],
)
def test_a_broken_file_is_no_server(config_path, text):
    state_folder(config_path).mkdir()
    run_json(config_path).write_text(text, encoding="utf-8")
    assert runfile.read(config_path) is None
    run_json(config_path).write_bytes(b"\xff" + text.encode())
    assert runfile.read(config_path) is None


def test_keys_of_a_newer_version_do_no_harm(config_path):
    path = runfile.write(config_path, own_info())
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "new": 1}), encoding="utf-8")
    assert runfile.read(config_path) is not None


def test_only_the_server_s_own_file_is_removed(config_path):
    path = runfile.write(config_path, own_info())
    assert runfile.remove(config_path, pid=os.getppid()) is False
    assert path.exists()
    assert runfile.remove(config_path) is True
    assert not path.exists()
