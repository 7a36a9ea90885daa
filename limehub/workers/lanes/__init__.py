"""Lanes: where handlers run. In greenlets, in native threads, in child processes; all alike else.

`lanes` builds each handler's call; `watch` holds its timeout; `far_side` is what runs in a child.
"""
