"""The named parts of the document, each made once, and read by reference."""

from __future__ import annotations

from app.http.schemas.shapes import Shape


class Components:
    """Schemas by their names. A name stands for one thing: another one under it is a mistake, and raises ValueError."""

    def __init__(self) -> None:
        self.schemas: dict[str, Shape] = {}
        self.responses: dict[str, Shape] = {}
        self._sources: dict[str, object] = {}

    def reserve(self, name: str, source: object) -> bool:
        """Take a name for what is made of `source`. False: it is taken, for the same."""
        if name in self._sources:
            if self._sources[name] != source:
                raise ValueError(f"Two things are called {name}: {source!r} and {self._sources[name]!r}")
            return False
        self._sources[name] = source
        # In the order in which they are met, however deep one is nested.
        self.schemas[name] = {}
        return True


def reference(name: str, of: str = "schemas") -> Shape:
    return {"$ref": f"#/components/{of}/{name}"}
