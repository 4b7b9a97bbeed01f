"""Findings as text for people, as JSON for programs, as annotations for GitHub's workflows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import indent, wrap

from scaler.check.finding import Finding, Level

COLUMNS = 116


def as_text(findings: Sequence[Finding], checked: int) -> Iterator[str]:
    """FILE:LINE: LEVEL: ..., as compilers write it, with why and what to write below; and a line that counts."""
    for found in findings:
        yield f"{found.file}:{found.line}: {found.level}: {found.what} [{found.id}]"
        yield f"    in {found.object or 'an unnamed one'}, document {found.document}: {found.path or 'all of it'}"
        yield from (f"    {line}" for line in wrap(f"why: {found.why}", COLUMNS - 4))
        yield "    write:"
        yield indent(found.write, "      ")
        yield ""
    levels = Counter(found.level for found in findings)
    counted = " and ".join(f"{levels[level]} {level}{'s' * (levels[level] != 1)}" for level in Level if levels[level])
    yield f"{counted or 'nothing found'} in {checked} ScaledObject{'s' * (checked != 1)}"


def as_json(findings: Sequence[Finding]) -> Iterator[str]:
    """One object a line."""
    return (json.dumps(found.as_json()) for found in findings)


def as_github(findings: Sequence[Finding]) -> Iterator[str]:
    """Workflow commands, which GitHub shows at the line of the pull request."""
    for found in findings:
        head = f"file={_property(found.file)},line={found.line},title={_property(found.id)}"
        message = "\n".join((found.what, found.why, "", found.write))
        yield f"::{found.level} {head}::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
