"""The limehub.toml that `limehub init` writes: it runs as it is, and every comment is true."""

from __future__ import annotations

__all__ = ["TEMPLATE"]

TEMPLATE = """\
# limehub.toml: runs the event handlers of installed packages on RabbitMQ.
#
# Every key is optional; a line such as `# key = value` shows the default or an example.
# `limehub check` verifies this file, the packages and the broker; `limehub config show --origin`
# tells what is in effect and where it came from. Any key can also be set by the environment:
# LIMEHUB_EVENTS__CONSUMER_HEARTBEAT=30. Secrets may stand in files:
# LIMEHUB_EVENTS__CONNECTION_STRING_FILE=/run/secrets/broker.

# The tenants: each has its own exchange, lime.<application>.
applications = ["default"]

[events]
# embedded:// is limehub's own broker: nothing to install, good for one machine; its messages are
# in broker.path below. For RabbitMQ: "amqp://guest@localhost//", or amqps:// for TLS.
connection_string = "embedded://"

# Seconds between heartbeats of consuming connections; 0 = none, rely on TCP keepalive.
# consumer_heartbeat = 15

# Seconds of silence until the first TCP keepalive probe; keep it below your firewall's timeout.
# tcp_keepalive_timeout = 120

# One explicit exchange instead of lime.<application>; with one application only.
# exchange = "project_production"

# How routing keys are bound and published; "{exchange}_{routing_key}" prefixes them.
# routing_key_template = "{routing_key}"

# Lets `limehub check` see bindings and policies, which AMQP itself does not list.
# management_url = "http://guest:guest@localhost:15672"

# Consume queues that exist with arguments that can lose messages (TTL, length limits).
# accept_foreign_queues = false

# [events.tls]
# ca_file = "ca.pem"
# cert_file = "client.pem"
# key_file = "client.key"
# server_name = "rabbitmq.example.com"

[event_handler]
# Unacked messages per queue. Blocking or slow handlers: 1 to 10; fast ones: hundreds.
prefetch_count = 1

# false: a handler that raises stops the server (after the others have finished).
# true: its event goes to lime.event_handler.<app>.dlq, where it can be requeued or deleted.
# Switching it never needs a queue to be deleted.
catch_handler_exceptions = false

# Seconds that an event stays in a dead letter queue; 0 = for ever.
# dlq_ttl = 2592000

# An event that stopped the server this many times is dead-lettered; 0 = never give up.
# crash_limit = 3

# Seconds that running handlers have to finish when the server stops.
# shutdown_grace = 30.0

# Seconds that a stuck handler may block everything before /healthz says so.
# max_stall = 600.0

# What keeps the heartbeats going meanwhile: "process", "thread" or "none".
# guard = "process"

# "quorum" for clusters; one consumer at a time where order matters.
# queue_type = "classic"
# single_active_consumer = false

# "application": a queue per handler and tenant, so that no tenant delays another.
# queue_per = "handler"

# Worker groups keep slow packages from delaying fast ones. A group runs the queues
# <app>.<queue_name> that begin with its queue_prefix; what no group claims runs in `default`.
#
# [event_handler.workers.webhooks]
# queue_prefix = "lime-webhooks"    # wait for other people's servers
# concurrency = 20
#
# [event_handler.workers.webclient]
# queue_prefix = "lime_webclient"   # frequent and fast
# prefetch_count = 1000
#
# [event_handler.workers.solution]
# queue_prefix = "solution"
# lane = "greenlet"                 # or "thread", "process"
# timeout = 300.0                   # seconds
#
# [event_handler.workers.default]
# prefetch_count = 100

# A package can be switched off, or limited to some tenants.
#
# [packages.lime-webhooks]
# enabled = true
# applications = ["default"]
# queue_per = "handler"

# A package's own settings; `limehub plugins` lists the packages.
#
# [plugins.lime-webhooks]
# targets = []

[web]
# "none" switches it off, port 0 is any free port. Other machines need web.token_file.
bind = "127.0.0.1:8080"

# A second, tiny listener for health probes; it answers while handlers block everything else.
# health_bind = "127.0.0.1:8081"

# One `name role token` a line; role: read or operate.
# token_file = "tokens"

# Host names under which the pages may be opened, besides the address of `bind`.
# allowed_hosts = ["limehub.example.com"]

# metrics_public = false
# audit_file = "audit.log"
# edit_dead_letters = false

[broker]
# The embedded broker's file; without one all is in memory and gone with the server.
path = ".limehub/broker.db"

# Where other services of this machine reach it; unless set, run.json beside the file tells.
# listen = "127.0.0.1:5672"

# Publishers wait while its messages take more than this share of the machine's memory.
# memory_share = 0.4

[log]
# "debug", "info", "warning", "error", "critical"
level = "info"

# "text" or "json"; unless set: text on a terminal, else json.
# format = "json"

# [tracing]
# OpenTelemetry spans; needs `pip install "limehub[otel]"` and OTEL_EXPORTER_OTLP_ENDPOINT.
# enabled = false
"""
