from __future__ import annotations

import contextlib
import os
import re
import tomllib
from pathlib import Path

import pytest
import tomlkit
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from limehub.config import EventHandler, Events, Web, load
from limehub.config.schema import FREE, key_types
from limehub.config.template import TEMPLATE
from limehub.errors import ConfigError

REPO = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a limehub.toml and go there, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        path = Path("limehub.toml")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def problems_of(path: Path, environ=None, overrides=None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        load(path, environ or {}, overrides)
    assert error.value.exit_code == 2
    return error.value.problems


def test_an_empty_file_gives_the_defaults(write):
    loaded = load(write(""), {})
    assert loaded.config.applications == ("default",)
    assert loaded.config.events.connection_string == "amqp://guest@localhost//"
    assert loaded.config.events.consumer_heartbeat == 15
    assert loaded.config.event_handler.dlq_ttl == 30 * 24 * 3600
    assert loaded.config.web.bind == "127.0.0.1:8080"
    assert loaded.config.web.health_address is None
    assert loaded.origins == {}
    assert loaded.warnings == ()


def test_every_key_of_the_file_arrives(write):
    config = load(
        write("""
applications = ["north", "south"]
[events]
connection_string = "amqps://bob:s3@mq"
tls = {ca_file = "ca.pem", server_name = "mq.example.com"}
[event_handler]
shutdown_grace = 5
[event_handler.workers.hooks]
queue_prefix = "lime-webhooks"
prefetch_count = 7
lane = "thread"
timeout = 1.5
[packages.lime-webhooks]
enabled = false
[plugins.lime-webhooks]
targets = ["http://a"]
[plugins.lime-webhooks.deep.er]
when = 2026-01-02
"""),
        {},
    ).config
    assert config.applications == ("north", "south")
    assert config.events.url.tls and config.events.url.username == "bob"
    assert config.event_handler.shutdown_grace == 5.0
    assert type(config.event_handler.shutdown_grace) is float
    assert config.event_handler.prefetch_of("hooks") == 7
    assert config.event_handler.lane_of("hooks") == "thread"
    assert config.event_handler.timeout_of("hooks") == 1.5
    assert config.applications_of("lime_webhooks") == ()
    assert config.plugins["lime-webhooks"]["deep"]["er"]["when"].year == 2026


def test_relative_files_belong_to_the_folder_of_the_file(write, tmp_path):
    config = load(
        write('[web]\ntoken_file = "tokens"\naudit_file = "/var/log/audit"\n[broker]\npath="b.db"'),
        {},
    ).config
    assert config.web.token_file == str(tmp_path / "tokens")
    assert config.web.audit_file == "/var/log/audit"
    assert config.broker.path == str(tmp_path / "b.db")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # names (facts/reliability row 51)
        ('applications = ["a\\r\\nb"]', "1:1: applications: 'a\\r\\nb' may only hold letters"),
        ('applications = ["a\\u0000"]', "may only hold letters"),
        ('applications = [".."]', "'..' is only dots"),
        ('applications = ["a/b"]', "may only hold letters"),
        ('applications = ["a%2Fb"]', "may only hold letters"),
        ('applications = ["a b"]', "may only hold letters"),
        ('applications = ["<script>"]', "may only hold letters"),
        ('applications = ["é"]', "'\\xe9' may only hold letters"),
        ('applications = [""]', "applications: is empty"),
        (f'applications = ["{"a" * 201}"]', "is 201 characters long"),
        ("applications = []", "must name at least one application"),
        ('applications = ["a", "a"]', "names a twice"),
        ('[event_handler.workers."a\\nb"]\nqueue_prefix = "x"', "\"a\\nb\": 'a\\nb' may only"),
        ('[packages."a b"]', "may only hold letters"),
        ('[plugins."a b"]', "may only hold letters"),
        ('[events]\nexchange = "x\\ny"', "2:1: events.exchange: 'x\\ny' may only"),
        # unknown keys (row 53)
        ("evnts = 1", "1:1: evnts: unknown key; did you mean events?"),
        ("[events]\nconsumer_heartbeet = 1", "2:1: events.consumer_heartbeet: unknown key; did"),
        ("[event_handler]\ntoken_file = 'x'", "did you mean web.token_file?"),
        ("[log]\nfoo = 1", "log.foo: unknown key; known here: level, format"),
        ("events.tls.ca_fil = 'x'", "1:12: events.tls.ca_fil: unknown key; did you mean ca_file"),
        ("events = {tls = {x = 1}}", "1:18: events.tls.x: unknown key; known here: ca_file"),
        # types (row 54)
        ('[events]\nconsumer_heartbeat = "15"', 'must be a whole number, is "15"; write 15 with'),
        ("[events]\nconsumer_heartbeat = true", "must be a whole number, is true"),
        ("[events]\nconsumer_heartbeat = 1.9", "must be a whole number, is 1.9"),
        ("[event_handler]\nmax_stall = true", "must be a number, is true"),
        ("[event_handler]\ncatch_handler_exceptions = 1", "must be true or false, is 1"),
        ('[web]\nmetrics_public = "true"', 'is "true"; write true without quotes'),
        ("[log]\nlevel = 5", 'must be one of "debug", "info"'),
        ('[log]\nlevel = "INFO"', "did you mean info?"),
        ("[events]\nexchange = 5", "must be a string, is 5"),
        ('applications = "north"', 'must be an array of strings, is "north"; write ["north"]'),
        ("applications = ['a',\n  5]", "2:3: applications[1]: must be a string, is 5"),
        ("events = 5", "1:1: events: must be a table, is 5"),
        ("event_handler.workers = 5", "1:15: event_handler.workers: must be a table, is 5"),
        ("event_handler.workers.default = []", "must be a table, is an array"),
        ("plugins = 1", "plugins: must be a table"),
        ("plugins.a = 1", "1:9: plugins.a: must be a table, is 1"),
        ("[web]\nbind = 2026-01-02", "must be a string, is a date"),
        ("[[events]]", "events: must be a table, is an array"),
        # ranges (row 55)
        ("[event_handler]\nprefetch_count = 0", "must be 1 to 65535, is 0"),
        ("[event_handler]\nprefetch_count = -1", "must be 1 to 65535, is -1"),
        ("[event_handler]\nprefetch_count = 70000", "must be 1 to 65535, is 70000"),
        ("[event_handler.workers.default]\nprefetch_count = 0", "must be 1 to 65535"),
        ("[event_handler.workers.default]\nconcurrency = 10001", "must be 1 to 10000"),
        ("[event_handler.workers.default]\ntimeout = 0", "must be 0.001 to 2592000 seconds"),
        ("[events]\nconsumer_heartbeat = 65536", "must be 0 to 65535 seconds"),
        ("[event_handler]\ndlq_ttl = -1", "must be 0 to 4294967 seconds, is -1"),
        ("[event_handler]\ndlq_ttl = 4294968", "must be 0 to 4294967 seconds"),
        ("[event_handler]\nmax_stall = nan", "is nan"),
        ("[event_handler]\nshutdown_grace = inf", "is inf"),
        (f"[event_handler]\nmax_stall = 1{'0' * 400}", "is too large a number"),
        # values
        ('[events]\nconnection_string = "amqp://bob@mq"', "user 'bob' has no password"),
        ('[events]\nmanagement_url = "mq:15672"', "must be an http:// or https:// URL"),
        ('[events]\nrouting_key_template = "x"', "must hold {routing_key}"),
        ('[events]\nrouting_key_template = "{x}{routing_key}"', "{x} is no placeholder"),
        ('[events]\nrouting_key_template = "{routing_key!r}"', "without format or conversion"),
        ('[events]\nrouting_key_template = "{routing_key"', "is no template"),
        ('[events]\nrouting_key_template = "{routing_key.x}"', "is no placeholder"),
        ('[events]\nrouting_key_template = "\\n{routing_key}"', "may hold up to 100 letters"),
        ('[web]\nbind = "8080"', 'must be "host:port"'),
        ('[web]\nbind = "127.0.0.1:99999"', "no number from 0 to 65535"),
        ('[web]\nbind = "::1:80"', "needs brackets"),
        ('[web]\ntoken_file = ""', "must name a file"),
        ('[web]\nallowed_hosts = ["http://x/"]', "is no host name"),
        # rules between keys
        ('applications=["a","b"]\n[events]\nexchange="x"', "3:1: events.exchange: serves one app"),
        ("[event_handler.workers.hooks]", "1:24: event_handler.workers.hooks.queue_prefix: is req"),
        (
            "[event_handler.workers]\na.queue_prefix='x-y'\nb.queue_prefix='x_y'",
            "3:3: event_handler.workers.b.queue_prefix: is that of the group a already",
        ),
        ("[packages.x]\napplications = ['defalt']", "defalt is not in the top-level `applica"),
        ("[packages]\na-b = {}\na_b = {}", "3:1: packages.a_b: is a-b again"),
        ("[plugins.a-b]\n[plugins.a_b]", "2:10: plugins.a_b: is a-b again"),
        ("[events.tls]\nkey_file = 'x'", "of no use without cert_file"),
        ('[web]\nbind = "0.0.0.0:80"', "set web.token_file"),
        ('[web]\nbind = "[::]:80"', "set web.token_file"),
        ('[web]\nbind = "mybox:80"', "set web.token_file"),
        ('[web]\nhealth_bind = "127.0.0.1:8080"', "the same address as web.bind"),
    ],
)
def test_one_mistake_is_one_message_with_its_place(write, text, message):
    problems = problems_of(write(text))
    assert len(problems) == 1, problems
    assert re.match(r"limehub\.toml:\d+:\d+: ", problems[0])
    assert message in problems[0]
    assert "\n" not in problems[0], "one problem is one line"


def test_all_problems_come_at_once_in_the_order_of_the_file(write):
    problems = problems_of(
        write("""applications = [1, "b", 2]
[events]
consumer_heartbeet = 5
tcp_keepalive_timeout = "x"
connection_string = "http://x"
[event_handler.workers.hooks]
queue_prefix = "x"
prefetch_count = 0
timeout = "no"
[event_handler.workers."b c"]
lane = "moon"
[web]
bind = "0.0.0.0:1"
""")
    )
    assert [int(problem.split(":")[1]) for problem in problems] == [
        *(1, 1, 3, 4, 5, 8, 9, 10, 13),
    ]


def test_a_mistake_hidden_by_another_is_still_found(write):
    text = '[event_handler.workers.default]\nlane = "moon"\n[packages.x]\napplications = ["a", "a"]'
    assert len(problems_of(write(text))) == 2


def test_a_missing_key_is_found_beside_a_broken_one(write):
    problems = problems_of(write("[event_handler.workers.hooks]\nprefetch_count = 0"))
    assert ["prefetch_count: must" in problems[1], "queue_prefix: is req" in problems[0]] == [
        True,
        True,
    ]


def test_a_misspelt_required_key_is_not_reported_twice(write):
    problems = problems_of(write("[event_handler.workers.hooks]\nqueue_prefx = 'x'"))
    assert len(problems) == 1
    assert problems[0].endswith("hooks.queue_prefx: unknown key; did you mean queue_prefix?")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a = \n", r"limehub\.toml:1:5: Invalid value"),
        (b"[events]\nx = 1\nx = 2\n", r"limehub\.toml:3:\d+: Cannot overwrite a value"),
        (b"[events", r"limehub\.toml:1:8: "),
        (b'a = """', r"limehub\.toml:1:\d+: "),
        (b"\xef\xbb\xbf[events]\n", r"limehub\.toml:1:1: begins with a byte order mark"),
        (b"\xff\xfe[\x00", r"limehub\.toml:1:1: begins with a byte order mark"),
        (b"# ok\n# caf\xe9\n", r"limehub\.toml:2:6: is not UTF-8"),
        (b"\x00", r"limehub\.toml:1:1: "),
        (b"plugins.a.b = " + b"[" * 40 + b"]" * 40, r"nested deeper than 32"),
        (b"plugins.a.b = " + b"[" * 90_000, r"limehub\.toml:1:"),
        (b"plugins" + b".a" * 40 + b" = 1", r"nested deeper than 32"),
        (b"a" + b".a" * 200_000 + b" = 1", r"nested"),
        (b"[event_handler]\nprefetch_count = " + b"9" * 5000, r"limehub\.toml:1:1: |is a huge"),
        (b"#" * (1024 * 1024 + 1), r"limehub\.toml: is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_toml_is_one_clear_message(write, raw, message):
    problems = problems_of(write(raw))
    assert len(problems) == 1
    assert re.search(message, problems[0]), problems


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"no limehub.toml in {tmp_path}; run `limehub init`, or point -c at one"
    assert problems_of(None) == (expected,)
    assert problems_of(None, {"LIMEHUB_CONFIG": "limehub.toml"}) == (expected,)


def test_a_folder_is_no_configuration(tmp_path):
    assert problems_of(tmp_path) == (f"{tmp_path}: cannot be read: Is a directory",)


def test_a_file_name_that_cannot_be_is_no_traceback(tmp_path):
    assert "cannot be read" in problems_of(tmp_path / ("x" * 300))[0]
    assert "cannot be read" in problems_of(tmp_path / "a\0b")[0]
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot be read" in problems_of(tmp_path / "loop")[0]


def test_an_unreadable_file_says_so(write, tmp_path):
    path = write("")
    path.chmod(0)
    tmp_path.chmod(0o755)
    with nobody():
        assert problems_of(path) == ("limehub.toml: cannot be read: Permission denied",)


@contextlib.contextmanager
def nobody():
    """Root reads every file, so do not be root for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_the_path_comes_from_the_environment_when_no_other_is_given(write):
    path = write('applications = ["north"]')
    path.rename("other.toml")
    loaded = load(None, {"LIMEHUB_CONFIG": "other.toml"})
    assert loaded.config.applications == ("north",)
    assert loaded.path == Path("other.toml").absolute()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[events]\nconsumer_heartbeat = 4", "limehub.toml:2:1: events.consumer_heartbeat: 4 s is"),
        ("[events]\ntls.ca_file = 'x'", "2:1: events.tls: is not used"),
        (
            "[events]\nconnection_string='amqp://h?heartbeat=20'\nconsumer_heartbeat = 30",
            "3:1: events.consumer_heartbeat: is not used",
        ),
    ],
)
def test_what_is_hardly_meant_is_a_warning(write, text, warning):
    assert any(warning in line for line in load(write(text), {}).warnings)


def test_a_heartbeat_of_none_or_of_five_seconds_gives_no_warning(write):
    assert load(write("[events]\nconsumer_heartbeat = 0"), {}).warnings == ()
    assert load(write("[events]\nconsumer_heartbeat = 5"), {}).warnings == ()


def test_a_secret_of_the_wrong_type_is_not_quoted(write):
    text = '[web]\nbind = "127.0.0.1:0"\ntoken = "hunter2"\nmetrics_public = "hunter3"'
    problems = "\n".join(problems_of(write(text)))
    assert "hunter2" not in problems
    text = '[events]\nconsumer_heartbeat = "amqp://bob:hunter2@mq"'
    assert "amqp://bob:***@mq" in problems_of(write(text))[0]


# -- anything at all ---------------------------------------------------------------------------

_fragments = st.sampled_from(
    [
        *("[events]", "[event_handler]", "[web]", "[plugins.x]", "[[plugins.x.y]]", "[log]"),
        *("[event_handler.workers.default]", "applications", "consumer_heartbeat", "bind", "a.b"),
        *(
            "=",
            " = ",
            "\n",
            "\r\n",
            ".",
            ",",
            "[",
            "]",
            "{",
            "}",
            '"',
            "'",
            '"""',
            "'''",
            "#",
            "\\",
        ),
        *("1", "1.5", "true", "nan", "1979-05-27 07:32:00", '"x"', "'y'", "0x1F", "é", "\t", " "),
        *("queue_prefix", "connection_string", '"amqp://guest@localhost//"', "level", '"info"'),
    ]
)
_no_texts = settings(max_examples=300)


@_no_texts
@given(text=st.one_of(st.text(max_size=200), st.lists(_fragments, max_size=25).map("".join)))
def test_any_text_is_a_configuration_or_a_list_of_problems(tmp_path, text):
    path = tmp_path / "limehub.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert unclear(told_of(path), path) == []


@_no_texts
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_a_list_of_problems(tmp_path, raw):
    path = tmp_path / "limehub.toml"
    path.write_bytes(raw)
    assert unclear(told_of(path), path) == []


_keys = st.one_of(
    st.sampled_from(sorted({part for key in key_types() for part in key})),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
)
_scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["none", "x", "127.0.0.1:1", "amqp://guest@localhost//", "thread", "process"]),
    st.dates(),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=15,
)


def _known_trees():
    """Trees that mostly use real keys, so that values get past the first check."""
    return st.dictionaries(st.sampled_from(sorted(key_types())), _values, max_size=6).map(_nested)


def _nested(flat):
    tree: dict = {}
    for path, value in flat.items():
        table = tree
        for part in path[:-1]:
            table = table.setdefault("default" if part == FREE else part, {})
        table["default" if path[-1] == FREE else path[-1]] = value
    return tree


@_no_texts
@given(tree=st.one_of(st.dictionaries(_keys, _values, max_size=5), _known_trees()))
def test_any_nested_values_are_a_configuration_or_a_list_of_problems(tmp_path, tree):
    path = tmp_path / "limehub.toml"
    path.write_text(tomlkit.dumps(tree), encoding="utf-8", newline="")
    assert unclear(told_of(path), path) == []


def told_of(path: Path) -> list[str]:
    """What is wrong with the file; any other error than ConfigError is a bug."""
    try:
        load(path, {})
    except ConfigError as error:
        return list(error.problems) or ["an error without a problem"]
    return []


def unclear(problems: list[str], path: Path) -> list[str]:
    """Those that do not name the file, or take more than a line."""
    return [
        problem
        for problem in problems
        if not problem.startswith(str(path)) or "\n" in problem or "\r" in problem
    ]


# -- the example -------------------------------------------------------------------------------


def test_the_example_in_the_repository_is_what_init_writes():
    assert (REPO / "limehub.toml").read_text(encoding="utf-8") == TEMPLATE


def test_the_example_runs_as_it_is_and_changes_no_default_but_the_broker(write):
    loaded = load(write(TEMPLATE), {})
    default = load(write(""), {}).config
    broker = evolve(
        default.broker, path=str(loaded.path.absolute().parent / ".limehub" / "broker.db")
    )
    events = evolve(default.events, connection_string="embedded://")
    assert loaded.config == evolve(default, broker=broker, events=events)
    assert loaded.warnings == ()


def test_every_commented_line_of_the_example_is_valid_and_every_key_is_in_it(write):
    lines = [re.sub(r"^# (?=\[|[a-z_]+ = )", "", line) for line in TEMPLATE.splitlines()]
    text = "\n".join(lines).replace('"embedded://"', '"amqps://guest@localhost//"')
    loaded = load(write(text), {})
    assert loaded.warnings == ()
    for path in key_types():
        pattern = re.compile(re.escape(".".join(path)).replace(r"\*", "[^.]+"))
        assert any(pattern.fullmatch(key) for key in loaded.origins), path


def test_commented_scalars_of_the_example_show_the_defaults():
    defaults = dict(re.findall(r"^# ([a-z_]+) = ([0-9.]+|true|false)$", TEMPLATE, re.MULTILINE))
    for section in (Events(), EventHandler(), Web()):
        for key, shown in defaults.items():
            if hasattr(section, key) and key != "prefetch_count":
                assert tomllib.loads(f"x = {shown}")["x"] == getattr(section, key), key
