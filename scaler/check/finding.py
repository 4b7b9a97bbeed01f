"""What a check answers: rules, what they hit, and findings with their place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from scaler.check.manifest import Manifest, Path
from scaler.policy import OperatorPolicy


class Level(StrEnum):
    """ERROR: the manifest is refused, or a veto or an "unknown" is passed by. WARNING: it works, and less well."""

    ERROR = "error"
    WARNING = "warning"


class Owner(NamedTuple):
    """What only one ScaledObject can have: a name, a workload or an HPA of a namespace."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Given:
    """What a rule judges by, beside the manifest: the operator's policy, and which ScaledObject was the first to claim
    what only one can have."""

    operator: OperatorPolicy
    owners: Mapping[Owner, Manifest]


class Hit(NamedTuple):
    """One place that breaks a rule: what happens there, and the lines to write instead."""

    path: Path
    what: str
    write: str


@dataclass(frozen=True, slots=True)
class Rule:
    """An id that stays, and why what it looks for does harm. `find` may raise Misshapen: the shape's rule tells it."""

    id: str
    level: Level
    why: str
    find: Callable[[Manifest, Given], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a file that would not do what it seems to. `path` is the key's, `object` is namespace/name."""

    id: str
    level: Level
    file: str
    document: int
    line: int
    path: str
    object: str
    what: str
    why: str
    write: str

    def as_json(self) -> dict[str, Any]:
        """The finding as one flat object."""
        return {field: getattr(self, field) for field in self.__slots__}


def shown(value: Any) -> str:
    """A value out of a file as a sentence shows it: quoted, short, in one line, without control characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def quoted(value: str) -> str:
    """A text as a YAML file takes it, whatever is in it."""
    return json.dumps(value)


def dotted(path: Path) -> str:
    """spec.triggers[0].metadata: the path as messages show it, without control characters."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return printable(text)


def printable(text: str) -> str:
    """The text with what a terminal would obey, or a log would break a line at, written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
