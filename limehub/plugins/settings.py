"""`config.plugins`: every plugin's settings, by item or, as Lime's packages do, by attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from limehub.config.names import find_alike

__all__ = ["Settings"]


class Settings(Mapping[str, Any]):
    """A read-only mapping; `settings["a-b"]` and `settings.a_b` are one, also in inner tables."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = dict(table)

    def __getitem__(self, name: str) -> Any:
        key = find_alike(name, self._table)
        if key is None:
            raise KeyError(name)
        value = self._table[key]
        return Settings(value) if isinstance(value, dict) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_table":  # copy and pickle ask before __init__ ran
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"no setting {name!r}; there are: {', '.join(self._table) or 'none'}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"<Settings {', '.join(self._table)}>"  # values may be secrets
