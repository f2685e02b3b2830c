"""Has what every Flask application compiles for itself compiled once a process: tests make thousands of applications.

That is each route, with two functions of Python that build its URL, and the templates. What comes out depends on
nothing but the route, the kinds of its variables and the template's text.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule


class Compiled:
    """What a rule has after it was compiled. It is only read."""

    def __init__(self, rule: Rule) -> None:
        self._read = {name: getattr(rule, name) for name in ("arguments", "_parts", "_trace", "_converters")}
        self._functions = {name: getattr(rule, name).__func__ for name in ("_build", "_build_unknown")}

    def give(self, rule: Rule) -> None:
        vars(rule).update(self._read)
        vars(rule).update({name: function.__get__(rule) for name, function in self._functions.items()})


class KeptTemplates(BytecodeCache):
    """Templates of this process, by name and text."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._kept.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._kept[bucket.key, bucket.checksum] = bucket.code


def keep() -> None:
    """From now on, for every application of this process."""
    Flask.jinja_options = {**Flask.jinja_options, "bytecode_cache": KeptTemplates()}
    compile_rule = Rule.compile
    kept: dict[Any, Compiled] = {}

    def compile_once(rule: Rule) -> None:
        assert rule.map is not None
        if rule.defaults or rule.subdomain or rule.map.host_matching:
            compile_rule(rule)
            return
        key = (rule.rule, rule.is_leaf, rule.merge_slashes, *rule.map.converters.values())
        if key not in kept:
            compile_rule(rule)
            kept[key] = Compiled(rule)
        kept[key].give(rule)

    Rule.compile = compile_once  # type: ignore[method-assign]
