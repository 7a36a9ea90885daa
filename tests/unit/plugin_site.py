"""A folder that plugins are installed into: real modules, real distribution metadata."""

from __future__ import annotations

import importlib
import sys
import textwrap
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

from limehub.config import Config
from limehub.plugins.registry import Registry, load_registry


class Site:
    """*folder* is on sys.path while the test runs; what was imported from it is forgotten."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, source: str = "") -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(source))
        return target

    def install(
        self,
        name: str,
        source: str = "",
        *,
        module: str = "",
        group: str = "limehub",
        version: str = "1.0",
        distribution: str = "",
    ) -> Path:
        """Install one plugin; returns the file of its module (a package's `__init__`)."""
        module = module or name.replace("-", "_").replace(".", "_")
        self.metadata(distribution or name, {group: {name: module}}, version=version)
        return self.write(f"{module}/__init__.py", source)

    def metadata(
        self, distribution: str, groups: dict[str, dict[str, str]], *, version: str = "1.0"
    ) -> None:
        folder = f"{distribution.replace('-', '_')}-{version}.dist-info"
        self.write(
            f"{folder}/METADATA",
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        )
        lines = []
        for group, points in groups.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        self.write(f"{folder}/entry_points.txt", "\n".join(lines) + "\n")

    def entry_points(self) -> list[EntryPoint]:
        return [
            point
            for distribution in distributions(path=[str(self.folder)])
            for point in distribution.entry_points
        ]

    def load(self, config: Config | None = None) -> Registry:
        importlib.invalidate_caches()  # finders look at a folder's age, whole seconds on some disks
        return load_registry(config or Config(), entry_points=self.entry_points())

    def forget(self) -> None:
        for name in [name for name, module in sys.modules.items() if self._holds(module)]:
            del sys.modules[name]

    def _holds(self, module: object) -> bool:
        spec = getattr(module, "__spec__", None)
        # A namespace package computes its path from its parent, which may be forgotten already.
        namespace = getattr(getattr(spec, "submodule_search_locations", None), "_path", None)
        places = [getattr(spec, "origin", None), *(namespace or ())]
        return any(str(place).startswith(str(self.folder)) for place in places)
