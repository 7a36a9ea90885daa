"""Plugins: from installed entry points to an immutable registry, queue -> handler.

entry points -> discovery -> hooks (pluggy, at start-up only) -> registration -> registry
function -> forms (which arguments it wants) + options -> Handler -> bound call, once per event
"""
