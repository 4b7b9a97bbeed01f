"""YAML text -> documents. Whatever is wrong with a file is one line that names the file and the line in it."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from scaler.policy import BadPolicy

STDIN = "-"


def read_documents(path: str) -> list[Any]:
    """All documents of a file, `-` for standard input; an empty document is None.

    Raises:
        BadPolicy: "FILE: ..." where the file cannot be read, "FILE, line N: ..." where it is not YAML.
    """
    name = "standard input" if path == STDIN else path
    try:
        text = sys.stdin.read() if path == STDIN else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise BadPolicy(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadPolicy(f"{name}: not UTF-8 text (byte {error.start})") from None
    try:
        return list(yaml.load_all(text, Loader=_OnceLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise BadPolicy(f"{name}{where}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadPolicy(f"{name}: not YAML: {' '.join(str(error).split())}") from None


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
