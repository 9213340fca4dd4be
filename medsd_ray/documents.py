"""The one reader of YAML and JSON from outside, and the writer of YAML that it reads back.

Whatever a file holds, reading it ends soon, in plain values or in one line that says what is wrong: its size,
its depth, its numbers and what its aliases stand for are bounded, and a key that is there twice is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml
from pydantic_core import from_json
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError
from yaml.resolver import Resolver

from medsd_ray.errors import InputError

MOST_YAML_BYTES = 2**20
"""As much as an object of Kubernetes may have."""
MOST_JSON_BYTES = 2**28
"""The plan of a million images has half of it."""
MOST_NODES = 200_000
"""Values in a YAML file, each alias counted as all that it stands for."""
DEEPEST = 64
"""Mappings and lists inside of one another in YAML."""
TOO_DEEP = f"more than {DEEPEST} levels deep; make it flatter"
LONGEST_NUMBER = 64
"""Characters of a number."""

_FLOAT, _INT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("float", "int", "merge"))
# The numbers of YAML 1.2's core schema (10.3.2), such as 1e-4. YAML 1.1, which PyYAML reads, asks for a dot
# and for the exponent's sign.
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_NUMBER_STARTS = list("-+.0123456789")


class DocumentError(InputError, ValueError):
    """What is wrong with a document, in one line; its name is added by who knows it."""


def _events_of() -> Any:
    """libyaml's parser, which is ten times as fast, or PyYAML's own. Only events are taken of it: libyaml's
    own composer goes down by calls of C, and ends the process where a document is deep.
    """
    if yaml.__with_libyaml__:
        from yaml import cyaml

        return vars(cyaml)["CParser"]
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Events(Reader, Scanner, Parser):
        def __init__(self, stream: Any):
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)

    return Events


_Events = _events_of()


class _Loader(Composer, SafeConstructor, Resolver, _Events):
    """PyYAML's SafeLoader, bounded; keys that are equal are refused."""

    def __init__(self, text: str):
        _Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.depth = self.nodes = 0
        self.sizes: dict[int, int] = {}
        """Of each node that is whole, by its identity: how many values it stands for."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        line = self.peek_event().start_mark.line + 1
        before = self.nodes
        if self.check_event(AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise DocumentError(f"line {line}: an alias of what it stands in; write the values out")
            self.nodes += self.sizes[id(node)]
        else:
            self.nodes, self.depth = self.nodes + 1, self.depth + 1
            if self.depth > DEEPEST:
                raise DocumentError(f"line {line}: {TOO_DEEP}")
            node = super().compose_node(parent, index)
            self.depth -= 1
            self.sizes[id(node)] = self.nodes - before
        if self.nodes > MOST_NODES:
            raise DocumentError(
                f"line {line}: more than {MOST_NODES:,} values, with all that aliases stand for; make it "
                "smaller"
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != _MERGE:
                name, line = self.construct_object(key), key.start_mark.line + 1
                if name in lines:
                    both = f"lines {lines[name]} and {line}" if line != lines[name] else f"line {line}"
                    raise DocumentError(f"{key.value[:80]!r} is there twice, on {both}; keep one")
                lines[name] = line
        return node

    def construct_scalar(self, node: ScalarNode) -> str:
        value = super().construct_scalar(node)
        if isinstance(node, ScalarNode) and node.tag in (_FLOAT, _INT) and len(value) > LONGEST_NUMBER:
            line = node.start_mark.line + 1
            raise DocumentError(f"line {line}: a number of more than {LONGEST_NUMBER} characters; mend it")
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would take for a number."""


for kind in (_Loader, _Dumper):
    kind.add_implicit_resolver(_FLOAT, _NUMBER, _NUMBER_STARTS)


def parse_yaml(data: bytes | str) -> Any:
    """A YAML document as plain values. Raises DocumentError where it is none, or beyond the bounds."""
    if len(data) > MOST_YAML_BYTES:
        raise DocumentError(f"more than the {MOST_YAML_BYTES:,} bytes that are read; make it smaller")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        return _Loader(text).get_single_data()
    except UnicodeDecodeError as error:
        raise DocumentError("not text in UTF-8") from error
    except DocumentError:
        raise
    except (yaml.YAMLError, ReaderError) as error:
        said = " ".join(str(error).split()).replace(' in "<unicode string>",', " at")
        mark = getattr(error, "problem_mark", None)
        if "maximum nesting depth" in said and mark is not None:  # PyYAML's own bound, since 6.0.4
            raise DocumentError(f"line {mark.line + 1}: {TOO_DEEP}") from error
        raise DocumentError(f"not YAML: {said}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's constructors raise these at values such as 2020-99-99 or !!int x.
        said = " ".join(str(error).split())[:80]
        raise DocumentError(f"not YAML: a value that is none ({said})") from error


def to_yaml(value: Any) -> str:
    """Plain values as the YAML that `parse_yaml` reads back to the same ones, in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_json(data: bytes | str) -> Any:
    """JSON as plain values; NaN and infinities, which Python writes, are taken.

    Raises DocumentError where it is no JSON, has more than MOST_JSON_BYTES bytes or a number of thousands of
    digits, or goes 200 levels deep, which is pydantic's own bound.
    """
    if len(data) > MOST_JSON_BYTES:
        raise DocumentError(f"more than the {MOST_JSON_BYTES:,} bytes that are read")
    if isinstance(data, bytes):
        data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return from_json(data)
    except ValueError as error:
        raise DocumentError(f"not JSON: {' '.join(str(error).split())}") from error


def json_object(data: bytes | str) -> dict[str, Any]:
    """`parse_json` of an object. Raises DocumentError for any other value, too."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise DocumentError("not an object in JSON")
    return value


def finite(value: Any) -> Any:
    """The same plain values with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
