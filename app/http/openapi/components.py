"""The named parts of the document. Each is made once, and used by reference."""

from __future__ import annotations

from app.http.schemas.shapes import Shape


class Components:
    """Schemas by name. Using the same name for two different sources raises ValueError."""

    def __init__(self) -> None:
        self.schemas: dict[str, Shape] = {}
        self.responses: dict[str, Shape] = {}
        self._sources: dict[str, object] = {}

    def reserve(self, name: str, source: object) -> bool:
        """Reserve a name for the schema made of `source`. False if it is reserved for the same source already."""
        if name in self._sources:
            if self._sources[name] != source:
                raise ValueError(f"Two things are called {name}: {source!r} and {self._sources[name]!r}")
            return False
        self._sources[name] = source
        # Reserved before it is filled, so that schemas are in the order in which they are first used.
        self.schemas[name] = {}
        return True


def reference(name: str, of: str = "schemas") -> Shape:
    return {"$ref": f"#/components/{of}/{name}"}
