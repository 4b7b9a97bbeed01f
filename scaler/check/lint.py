"""Every rule over every ScaledObject -> findings, by file and line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from scaler.check.finding import Finding, Given, Hit, Owner, Rule, dotted, printable
from scaler.check.manifest import Manifest, Misshapen
from scaler.check.object_rules import owned
from scaler.check.rules import REFUSED, RULES
from scaler.policy import OperatorPolicy


def lint(manifests: Sequence[Manifest], operator: OperatorPolicy) -> list[Finding]:
    """All findings, sorted by file and line."""
    given = Given(operator, _owners(manifests))
    findings = [
        _finding(rule, manifest, hit)
        for manifest in manifests
        for rule in RULES
        for hit in _hits(rule, manifest, given)
    ]
    return sorted(findings, key=lambda found: (found.file, found.line, found.path, found.id))


def refusal(value: dict[str, Any]) -> str | None:
    """The first thing for which the API server or KEDA refuses this manifest of a ScaledObject, in one line."""
    manifest = Manifest("", 1, (), value, yaml.MappingNode("", []))
    given = Given(OperatorPolicy(), {})
    hits = (hit for rule in RULES if rule.id in REFUSED for hit in _hits(rule, manifest, given))
    return next((printable(hit.what) for hit in hits), None)


def _owners(manifests: Sequence[Manifest]) -> dict[Owner, Manifest]:
    owners: dict[Owner, Manifest] = {}
    for manifest in manifests:
        try:
            for owner in owned(manifest):
                owners.setdefault(owner, manifest)
        except Misshapen:
            continue
    return owners


def _hits(rule: Rule, manifest: Manifest, given: Given) -> Iterator[Hit]:
    try:
        yield from rule.find(manifest, given)
    except Misshapen:
        return


def _finding(rule: Rule, manifest: Manifest, hit: Hit) -> Finding:
    return Finding(
        id=rule.id,
        level=rule.level,
        file=manifest.file,
        document=manifest.document,
        line=manifest.line(hit.path),
        path=dotted((*manifest.place, *hit.path)),
        object=printable(f"{manifest.namespace}/{manifest.name}".removeprefix("/")),
        what=printable(hit.what),
        why=rule.why,
        write="\n".join(printable(line) for line in hit.write.split("\n")),
    )
