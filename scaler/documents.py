"""YAML text -> documents. Whatever is wrong with a file is one line that names the file and the line in it."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scaler.policy import BadPolicy

STDIN = "-"
MOST_BYTES = 4 * 2**20  # a ScaledObject is some 1.2 kB, so 3,500 of them; PyYAML reads 0.5 MB a second
MOST_NODES = 1_000_000  # 4 MiB of YAML hold no more without aliases


class Document(NamedTuple):
    """A document as values, and as nodes that know their lines."""

    value: Any
    node: yaml.Node


def read_documents(path: str) -> list[Any]:
    """All documents of a file, `-` for standard input; an empty document is None.

    Raises:
        BadPolicy: "FILE: ..." where the file cannot be read, "FILE, line N: ..." where it is not YAML.
    """
    return [document.value for document in read_marked_documents(path)]


def read_marked_documents(path: str) -> list[Document]:
    """The same with the nodes; merges (`<<`) are done in both. Raises BadPolicy."""
    name = shown_name(path)
    try:
        return list(_documents(_text(path)))
    except OSError as error:
        raise BadPolicy(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadPolicy(f"{name}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise BadPolicy(f"{name}{where}: {error.problem or 'not YAML'}") from None
    except _TooLarge as error:
        raise BadPolicy(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadPolicy(f"{name}: not YAML: {' '.join(str(error).split())}") from None


def shown_name(path: str) -> str:
    """The file as messages name it."""
    return "standard input" if path == STDIN else path


class _TooLarge(ValueError):
    """A file, or what its anchors make of it, beyond all use."""


def _text(path: str) -> str:
    if path == STDIN:
        text = sys.stdin.read(MOST_BYTES + 1)
        size = len(text)
    else:
        with Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        size, text = len(raw), raw.decode("utf-8") if len(raw) <= MOST_BYTES else ""
    if size > MOST_BYTES:
        raise _TooLarge(f"more than {MOST_BYTES // 2**20} MiB; split it")
    return text


def _documents(text: str) -> Iterator[Document]:
    loader = _OnceLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            size = _expanded_size(node, {})
            if size > MOST_NODES:
                raise _TooLarge(f"line {node.start_mark.line + 1}: its anchors make more than {MOST_NODES} values")
            yield Document(loader.construct_document(node), node)
    finally:
        loader.dispose()


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values of the node with every alias written out. Ten lines of aliases to aliases can make 10^9 of them, and one
    that contains itself has no end; whatever walks the values would not come back."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1  # what a node that contains itself finds here
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_expanded_size(key, known) + _expanded_size(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(item, known) for item in node.value)
    known[id(node)] = size
    return size


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice: PyYAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value}: this key stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
