"""A ScaledObject as it stands in its file: values by path, each with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import yaml

from scaler.documents import Document, read_marked_documents, shown_name
from scaler.policy import BadPolicy, ServicePolicy

Path = tuple[str | int, ...]
_Kind = TypeVar("_Kind")

BEHAVIOR: Path = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
MODIFIERS: Path = ("spec", "advanced", "scalingModifiers")
EXTERNAL_TYPES = ("external", "external-push")
DEFAULT_MAX_REPLICAS = 100  # KEDA's maxReplicaCount where the field is absent


class Misshapen(Exception):
    """A value of the wrong type: the shape's rule reports it, the others have nothing to say about it."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One entry of spec.triggers. Scalars that stand unquoted in the metadata are read as the text they were meant."""

    index: int
    type: str
    name: str
    metadata: dict[str, str]

    def path(self, *rest: str) -> Path:
        """Where it, or something in it, stands."""
        return ("spec", "triggers", self.index, *rest)


@dataclass(frozen=True)
class Manifest:
    """One ScaledObject. `place` is where it stands in its document: () or an item of a List."""

    file: str
    document: int
    place: Path
    value: Mapping[str, Any]
    node: yaml.Node

    @property
    def name(self) -> str:
        """metadata.name, "" without one."""
        return self._text_or_nothing("metadata", "name")

    @property
    def namespace(self) -> str:
        """metadata.namespace, "" without one: `kubectl -n` or kustomize gives it then."""
        return self._text_or_nothing("metadata", "namespace")

    def get(self, kind: type[_Kind], *path: str | int) -> _Kind | None:
        """The value there; None where it, or what holds it, is absent or null. Raises Misshapen for another type."""
        value: Any = self.value
        for part in path:
            value = _inside(value, part)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Misshapen
        return value

    def has(self, *path: str | int) -> bool:
        """Whether something that is not null stands there."""
        return self.get(object, *path) is not None

    def raw(self, path: Path) -> Any:
        """Whatever stands there, None where there is nothing."""
        value: Any = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def line(self, path: Path) -> int:
        """The line of that key or item, else of what would hold it; the first line of a file is 1."""
        node, line = self.node, self.node.start_mark.line
        for part in path:
            child = _child(node, part)
            if child is None:
                break
            node, line = child
        return line + 1

    @cached_property
    def triggers(self) -> Sequence[Trigger]:
        """All triggers; raises Misshapen."""
        found = []
        for index, each in enumerate(self.get(list, "spec", "triggers") or []):
            if not isinstance(each, dict):
                raise Misshapen
            at = ("spec", "triggers", index)
            metadata = self.get(dict, *at, "metadata") or {}
            found.append(
                Trigger(
                    index=index,
                    type=self.get(str, *at, "type") or "",
                    name=self.get(str, *at, "name") or "",
                    metadata={key: as_text(value) for key, value in metadata.items() if isinstance(key, str)},
                )
            )
        return found

    @property
    def ours(self) -> Trigger | None:
        """The trigger that asks this scaler: the external one, of several the one with the most of our keys."""
        external = [trigger for trigger in self.triggers if trigger.type in EXTERNAL_TYPES]
        return max(external, key=lambda trigger: len(_OUR_KEYS & trigger.metadata.keys()), default=None)

    @property
    def min_replicas(self) -> int:
        """KEDA's floor."""
        return self.get(int, "spec", "minReplicaCount") or 0

    @property
    def max_replicas(self) -> int:
        """KEDA's ceiling."""
        found = self.get(int, "spec", "maxReplicaCount")
        return DEFAULT_MAX_REPLICAS if found is None else found

    def _text_or_nothing(self, *path: str) -> str:
        try:
            return self.get(str, *path) or ""
        except Misshapen:
            return ""


_OUR_KEYS = {str(field.alias) for field in ServicePolicy.model_fields.values()} - {"scalerAddress"}


def as_text(value: Any) -> str:
    """A scalar as the text it was meant to be: 4 is "4", true is "true"; anything else is ""."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else ""


def _inside(value: Any, part: str | int) -> Any:
    if value is None:
        return None
    if isinstance(part, int) and isinstance(value, list):
        return value[part] if part < len(value) else None
    if isinstance(part, str) and isinstance(value, dict):
        return value.get(part)
    raise Misshapen


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Node, int] | None:
    """A key's value with the key's line, an item with its own; of a key that was merged and set, the one that won."""
    if isinstance(node, yaml.MappingNode) and isinstance(part, str):
        for key, value in reversed(node.value):
            if key.value == part:
                return value, key.start_mark.line
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line
    return None


def read_manifests(paths: Sequence[str]) -> list[Manifest]:
    """All ScaledObjects of these files, Lists included; other kinds are passed over.

    Raises:
        BadPolicy: in one line: a file that cannot be read, is not YAML, holds something else than manifests, or holds
            no ScaledObject.
    """
    found: list[Manifest] = []
    for path in paths:
        before = len(found)
        for number, document in enumerate(read_marked_documents(path), start=1):
            found.extend(_scaled_objects(shown_name(path), number, document))
        if len(found) == before:
            raise BadPolicy(f"{shown_name(path)}: no ScaledObject in it")
    return found


def _scaled_objects(file: str, number: int, document: Document) -> Iterator[Manifest]:
    if document.value is None:
        return
    origin = f"{file}, line {document.node.start_mark.line + 1}: document {number}"
    if not isinstance(document.value, dict):
        raise BadPolicy(f"{origin}: not a manifest: {type(document.value).__name__}; it takes a mapping")
    if not str(document.value.get("kind", "")).endswith("List"):
        if document.value.get("kind") == "ScaledObject":
            yield Manifest(file, number, (), document.value, document.node)
        return
    items = document.value.get("items")
    found = _child(document.node, "items")
    if not isinstance(items, list) or found is None:
        raise BadPolicy(f"{origin}: items: not a list of manifests")
    for index, (item, node) in enumerate(zip(items, found[0].value, strict=True)):
        if not isinstance(item, dict):
            raise BadPolicy(f"{origin}: items[{index}]: not a manifest: {type(item).__name__}; it takes a mapping")
        if item.get("kind") == "ScaledObject":
            yield Manifest(file, number, ("items", index), item, node)
