"""The configuration as frozen values; every attribute is the TOML key of the same name.

Each section decides its own effective values (what a group inherits, where an event is published);
all of it is pure. What holds between sections is in rules.py.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, TypeVar

from attrs import evolve, field, fields, frozen
from attrs.validators import optional

from limehub.config import checks
from limehub.config.address import Address
from limehub.config.mask import mask_text, mask_tree
from limehub.config.names import alike, find_alike, suggestion
from limehub.config.url import BrokerUrl
from limehub.errors import ConfigError

__all__ = [
    "QUEUE_NAMESPACE",
    "Broker",
    "Config",
    "EventHandler",
    "Events",
    "Guard",
    "Lane",
    "Log",
    "Package",
    "QueuePer",
    "QueueType",
    "Tls",
    "Tracing",
    "Web",
    "WorkerSettings",
]

QUEUE_NAMESPACE = "lime.event_handler."
"""What the full name of every handler's queue begins with."""

Lane = Literal["greenlet", "thread", "process"]
Guard = Literal["process", "thread", "none"]
QueueType = Literal["classic", "quorum"]
QueuePer = Literal["handler", "application"]
Level = Literal["debug", "info", "warning", "error", "critical"]
Format = Literal["text", "json"]

_DAY = 86_400
_PREFETCH = checks.between(1, 65_535)
_FILE = {"file": True}

_Section = TypeVar("_Section", "Tls", "Web", "Broker")


def _file() -> Any:
    return field(default=None, validator=optional(checks.file_path), metadata=_FILE)


def _repr_url(url: str | None) -> str:
    return repr(url and mask_text(url))


def _repr_tree(tree: Any) -> str:
    return repr(mask_tree(tree))


@frozen(kw_only=True)
class Tls:
    """`events.tls`: files in PEM form; without ca_file the system's authorities are trusted."""

    ca_file: str | None = _file()
    cert_file: str | None = _file()
    key_file: str | None = _file()
    server_name: str | None = field(default=None, validator=optional(checks.name))


@frozen(kw_only=True)
class Events:
    """`events`: the broker, and how events are addressed on it. Times are seconds."""

    connection_string: str = field(
        default="amqp://guest@localhost//", validator=checks.broker_url, repr=_repr_url
    )
    consumer_heartbeat: int = field(default=15, validator=checks.between(0, 65_535, "seconds"))
    tcp_keepalive_timeout: int = field(default=120, validator=checks.between(1, 32_767, "seconds"))
    exchange: str | None = field(default=None, validator=optional(checks.name))
    routing_key_template: str = field(
        default="{routing_key}", validator=checks.routing_key_template
    )
    management_url: str | None = field(
        default=None, validator=optional(checks.web_url), repr=_repr_url
    )
    accept_foreign_queues: bool = False
    tls: Tls = field(factory=Tls)

    @property
    def url(self) -> BrokerUrl:
        """The parsed connection string."""
        return BrokerUrl.parse(self.connection_string)

    @property
    def heartbeat(self) -> int:
        """Seconds to ask the broker for: the URL's own option, else consumer_heartbeat."""
        return int(self.url.options.get("heartbeat", self.consumer_heartbeat))


@frozen(kw_only=True)
class WorkerSettings:
    """`event_handler.workers.<name>`; None is inherited (timeout: none)."""

    queue_prefix: str | None = field(default=None, validator=optional(checks.name))
    prefetch_count: int | None = field(default=None, validator=optional(_PREFETCH))
    concurrency: int | None = field(default=None, validator=optional(checks.between(1, 10_000)))
    lane: Lane | None = None
    timeout: float | None = field(
        default=None, validator=optional(checks.between(0.001, 30 * _DAY, "seconds"))
    )

    @property
    def claim(self) -> str | None:
        """What a queue's `<app>.<queue_name>`, in alike() form, must begin with; None: nothing."""
        if self.queue_prefix is None:
            return None
        return alike(self.queue_prefix).removeprefix(QUEUE_NAMESPACE)


@frozen(kw_only=True)
class EventHandler:
    """`event_handler`: how handlers run and what their failures mean. Times are seconds."""

    prefetch_count: int = field(default=1, validator=_PREFETCH)
    catch_handler_exceptions: bool = False
    # The broker's limit is 2^32 - 1 milliseconds.
    dlq_ttl: int = field(default=2_592_000, validator=checks.between(0, 4_294_967, "seconds"))
    crash_limit: int = field(default=3, validator=checks.between(0, 1_000_000))
    shutdown_grace: float = field(default=30.0, validator=checks.between(0, _DAY, "seconds"))
    max_stall: float = field(default=600.0, validator=checks.between(1, _DAY, "seconds"))
    guard: Guard = "process"
    queue_type: QueueType = "classic"
    single_active_consumer: bool = False
    queue_per: QueuePer = "handler"
    workers: Mapping[str, WorkerSettings] = field(factory=dict)

    def settings_of(self, group: str) -> WorkerSettings:
        """Return the group's own table; an empty one if it has none."""
        return self.workers.get(group) or WorkerSettings()

    def prefetch_of(self, group: str) -> int:
        """Return the unacked messages allowed per queue of *group*."""
        return self.settings_of(group).prefetch_count or self.prefetch_count

    def lane_of(self, group: str) -> Lane:
        """Return where handlers of *group* run unless they say otherwise."""
        return self.settings_of(group).lane or "greenlet"

    def timeout_of(self, group: str) -> float | None:
        """Return the seconds that a handler of *group* may run; None is no limit."""
        return self.settings_of(group).timeout

    def concurrency_of(self, group: str, prefetches: Iterable[int]) -> int:
        """Return how many handlers of *group* run at once; *prefetches*: one per queue of it."""
        return self.settings_of(group).concurrency or max(1, min(sum(prefetches), 100))

    def group_of(self, app: str, queue_name: str) -> str:
        """Return the group that claims the queue: longest prefix, else `default`."""
        queue = alike(f"{app}.{queue_name}")
        claims = [
            (len(settings.claim), group)
            for group, settings in self.workers.items()
            if settings.claim is not None and queue.startswith(settings.claim)
        ]
        return max(claims)[1] if claims else "default"


@frozen(kw_only=True)
class Package:
    """`packages.<app>`: *applications* None is all, *queue_per* None is event_handler's."""

    enabled: bool = True
    applications: tuple[str, ...] | None = field(
        default=None, validator=optional(checks.applications)
    )
    queue_per: QueuePer | None = None


@frozen(kw_only=True)
class Web:
    """`web`: addresses are `host:port` or `none`."""

    bind: str = field(default="127.0.0.1:8080", validator=checks.address)
    health_bind: str = field(default="none", validator=checks.address)
    token_file: str | None = _file()
    allowed_hosts: tuple[str, ...] = field(default=(), validator=checks.host_names)
    metrics_public: bool = False
    audit_file: str | None = _file()
    edit_dead_letters: bool = False

    @property
    def address(self) -> Address | None:
        """Where the pages and the API listen; None: nowhere."""
        return _address(self.bind)

    @property
    def health_address(self) -> Address | None:
        """Where the health listener listens; None: nowhere."""
        return _address(self.health_bind)


@frozen(kw_only=True)
class Broker:
    """`broker`: the embedded broker; *path*: its file, None keeps it in memory;
    *memory_share*: of the machine's memory, from which on publishers wait."""

    listen: str = field(default="none", validator=checks.address)
    path: str | None = _file()
    memory_share: float = field(default=0.4, validator=checks.between(0.01, 1))

    @property
    def address(self) -> Address | None:
        """Where it accepts other clients; None: nowhere."""
        return _address(self.listen)


@frozen(kw_only=True)
class Log:
    """`log`: *format* None is text on a terminal, else json."""

    level: Level = "info"
    format: Format | None = None


@frozen(kw_only=True)
class Tracing:
    """`tracing`: OpenTelemetry; where spans go is said by its own OTEL_ variables."""

    enabled: bool = False


@frozen(kw_only=True)
class Config:
    """A whole limehub.toml, environment and command line included."""

    applications: tuple[str, ...] = field(default=("default",), validator=checks.applications)
    events: Events = field(factory=Events)
    event_handler: EventHandler = field(factory=EventHandler)
    packages: Mapping[str, Package] = field(factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(factory=dict, repr=_repr_tree)
    web: Web = field(factory=Web)
    broker: Broker = field(factory=Broker)
    log: Log = field(factory=Log)
    tracing: Tracing = field(factory=Tracing)

    def exchange_of(self, application: str) -> str:
        """Return where *application*'s events are published. Raises ConfigError if unknown."""
        if application not in self.applications:
            hint = suggestion(application, self.applications)
            raise ConfigError(f"application {application!r} is not in `applications`{hint}")
        return self.events.exchange or f"lime.{application}"

    def application_of(self, exchange: str) -> str | None:
        """Return whose events *exchange* carries; None: not one of ours."""
        return self._application_by_exchange.get(exchange)

    @cached_property
    def _application_by_exchange(self) -> dict[str, str]:
        return {self.exchange_of(application): application for application in self.applications}

    def routing_key(self, exchange: str, key: str) -> str:
        """Return *key* as it is bound and published on *exchange*."""
        return self.events.routing_key_template.format(exchange=exchange, routing_key=key)

    def loses_wildcard(self, key: str) -> bool:
        """Whether the template glues text to a * or # of *key*, so that it never matches."""
        words = self.routing_key("x", key).split(".")
        return any(len(word) > 1 and ("*" in word or "#" in word) for word in words)

    def package_of(self, app: str) -> Package:
        """Return the settings of a package; dash and underscore alike."""
        found = find_alike(app, self.packages)
        return self.packages[found] if found is not None else Package()

    def applications_of(self, app: str) -> tuple[str, ...]:
        """Return the tenants that a package serves; none if it is switched off."""
        package = self.package_of(app)
        if not package.enabled:
            return ()
        return self.applications if package.applications is None else package.applications

    def queue_per_of(self, app: str) -> QueuePer:
        """Return whether a package has one queue per handler, or one per tenant too."""
        return self.package_of(app).queue_per or self.event_handler.queue_per

    def plugin_table(self, name: str) -> Mapping[str, Any]:
        """Return `plugins.<name>` as configured; dash and underscore alike."""
        found = find_alike(name, self.plugins)
        return self.plugins[found] if found is not None else {}

    def anchored(self, folder: str) -> Config:
        """Return a copy whose relative file names begin in *folder*, an absolute path."""
        return evolve(
            self,
            events=evolve(self.events, tls=_anchored(self.events.tls, folder)),
            web=_anchored(self.web, folder),
            broker=_anchored(self.broker, folder),
        )


def _address(text: str) -> Address | None:
    return None if text == "none" else Address.parse(text)


def _anchored(section: _Section, folder: str) -> _Section:
    files: dict[str, Any] = {
        attribute.name: posixpath.join(folder, name)
        for attribute in fields(type(section))
        if attribute.metadata.get("file") and (name := getattr(section, attribute.name))
    }
    return evolve(section, **files)
