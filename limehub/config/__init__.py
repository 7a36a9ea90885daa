"""limehub.toml and the environment become one frozen, strict Config.

loaded = load(Path("limehub.toml"), os.environ)      ConfigError names every problem at once
loaded.config.events.url.host, loaded.origins["events.connection_string"]
"""

from __future__ import annotations

from limehub.config.address import Address
from limehub.config.load import DEFAULT_FILE, Loaded, load
from limehub.config.mask import mask_text, mask_tree
from limehub.config.model import (
    QUEUE_NAMESPACE,
    Broker,
    Config,
    EventHandler,
    Events,
    Guard,
    Lane,
    Log,
    Package,
    QueuePer,
    QueueType,
    Tls,
    Tracing,
    Web,
    WorkerSettings,
)
from limehub.config.names import alike, name_problem, require_name, suggestion
from limehub.config.plugin_settings import plugin_settings
from limehub.config.reload import Difference, difference, with_live_changes
from limehub.config.runfile import RunInfo, state_folder
from limehub.config.url import BrokerUrl

__all__ = [
    "DEFAULT_FILE",
    "QUEUE_NAMESPACE",
    "Address",
    "Broker",
    "BrokerUrl",
    "Config",
    "Difference",
    "EventHandler",
    "Events",
    "Guard",
    "Lane",
    "Loaded",
    "Log",
    "Package",
    "QueuePer",
    "QueueType",
    "RunInfo",
    "Tls",
    "Tracing",
    "Web",
    "WorkerSettings",
    "alike",
    "difference",
    "load",
    "mask_text",
    "mask_tree",
    "name_problem",
    "plugin_settings",
    "require_name",
    "state_folder",
    "suggestion",
    "with_live_changes",
]
