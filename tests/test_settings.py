"""The settings file: its faults are lines that say where, and its reference cannot rot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.address import Address, parse_address
from scaler.policy import BadPolicy, Section
from scaler.quantity import Level
from scaler.settings import Settings, ShadowService, load_settings
from scaler.sources.prometheus import BasicAuth, PrometheusSettings

REFERENCE = Path(__file__).parent.parent / "deploy" / "base" / "vram-scaler.yaml"


def written(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_a_file_and_with_an_empty_one_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings(None) == load_settings(written(tmp_path, "# nothing\n")) == Settings()
    assert Settings().prometheus is None


def test_a_file_is_read_in_full(tmp_path: Path) -> None:
    text = """
    timing: {tick: 5s}
    pools: [{name: t4, models: Tesla T4, lowWatermark: 1536Mi, highWatermark: 2Gi}, {name: rest}]
    clientRetries: 3
    prometheus: {url: "https://thanos.example/prom/", deadline: 3s}
    listen: ":7000"
    http: "[::1]:9000"
    """
    settings = load_settings(written(tmp_path, text))
    assert settings.timing.tick_s == 5.0
    assert [pool.name for pool in settings.pools] == ["t4", "rest"]
    assert settings.pool("t4").low_watermark == Level(bytes=1536 * 1024**2)
    assert settings.prometheus is not None
    assert (settings.prometheus.url, settings.prometheus.deadline_s) == ("https://thanos.example/prom", 3.0)
    assert (settings.listen, settings.http) == (Address("0.0.0.0", 7000), Address("::1", 9000))
    assert str(settings.http) == "[::1]:9000"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("timing: {tick: 1h}", ["timing.tick: ", "500ms to 5m"], id="out of range"),
        pytest.param("timing: {tick: 15}", ["timing.tick: 15: not a duration such as 15s"], id="no unit"),
        pytest.param("timing: {tik: 15s}", ["timing.tik: unknown key; did you mean tick?"], id="unknown key"),
        pytest.param("pool: []", ["pool: unknown key; did you mean pools?"], id="unknown key at the top"),
        pytest.param(
            "pools: [{lowWatermark: 20%}]", ["pools[0]", "highWatermark 15% is below lowWatermark 20%"], id="watermarks"
        ),
        pytest.param("pools: [{name: a}, {name: a}]", ["the name a stands twice"], id="a pool twice"),
        pytest.param("pools: []", ["pools", "at least one pool"], id="no pool"),
        pytest.param("pools:", ["pools: null: not a list; it takes at least one pool"], id="a list without contents"),
        pytest.param("timing: null", ["timing: null: not a mapping of keys"], id="a section without contents"),
        pytest.param("timing: [15s]", ["timing: a list: not a mapping of keys"], id="a section that is a list"),
        pytest.param("pools: {name: t4}", ["pools: a mapping: not a list; it takes"], id="a list that is a section"),
        pytest.param("prometheus: {url: null}", ["prometheus.url: null: not text; it takes"], id="no text"),
        pytest.param("clientRetries: 99999999999999999999", ["clientRetries: 9999", "0 to 10"], id="a huge number"),
        pytest.param(
            "pools: [{low_watermark: 1Gi}]",
            ["pools[0].low_watermark: unknown key; did you mean lowWatermark?"],
            id="an inner name in place of a key",
        ),
        pytest.param("client_retries: 3", ["client_retries: unknown key"], id="an inner name at the top"),
        pytest.param("timing: {tick_s: 15s}", ["timing.tick_s: unknown key"], id="an inner name in a section"),
        pytest.param("listen: localhost", ["listen: 'localhost': not an address such as 127.0.0.1:6000"], id="no port"),
        pytest.param("http: 127.0.0.1:65536", ["http: '127.0.0.1:65536': not an address"], id="no such port"),
        pytest.param("prometheus: {url: 'ftp://x'}", ["prometheus.url: 'ftp://x'", "http or https"], id="no http"),
        pytest.param(
            "prometheus: {queries: {queue: up}}",
            ["prometheus.queries.queue: unknown key; did you mean queued?"],
            id="nested unknown key",
        ),
        pytest.param(
            "clientRetries: 99\ntiming: {tick: 1h}", ["clientRetries: 99", "timing.tick: "], id="all faults at once"
        ),
        pytest.param("a: [1\nb: 2", ["settings.yaml, line 2: "], id="not YAML"),
        pytest.param(
            "clientRetries: 1\nclientRetries: 2",
            ["settings.yaml, line 2: clientRetries: this key stands twice"],
            id="a key twice",
        ),
        pytest.param("clientRetries: 1\n---\nclientRetries: 2", ["2 documents; it takes one"], id="two documents"),
        pytest.param("- tick", ["list; it takes a mapping"], id="a list"),
    ],
)
def test_a_fault_is_one_line_that_names_file_key_value_and_range(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    with pytest.raises(BadPolicy) as fault:
        load_settings(written(tmp_path, text))
    line = str(fault.value)
    assert line.startswith(str(tmp_path / "settings.yaml"))
    assert "\n" not in line
    for part in expected:
        assert part in line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match=r"none\.yaml: No such file or directory"):
        load_settings(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6000", ("127.0.0.1", 6000)),
        (":6000", ("0.0.0.0", 6000)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "6000", "host", "host:", "host:-1", "host:65536", "::1:80", "a b:1", "host:１"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_address(text)


def test_the_reference_holds_exactly_the_defaults() -> None:
    reference = load_settings(str(REFERENCE))
    assert reference.prometheus is not None
    # These three say where this Deployment is; everything else is as without a file.
    prometheus = PrometheusSettings(url=reference.prometheus.url)
    assert reference == Settings(prometheus=prometheus, listen=reference.listen, http=reference.http)


def test_the_reference_has_every_key_with_its_description() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert set(_paths(yaml.safe_load(text))) == set(_model_paths(Settings))
    commented = dict(_comments(text))
    for path, description in _model_paths(Settings).items():
        assert description in commented[path], f"{path}: its comment does not say {description!r}"
    for key in ("username", "passwordFile"):
        assert re.search(rf"#\s+{key}: ", text), f"basicAuth.{key} is not shown"
        assert key in {field.alias for field in BasicAuth.model_fields.values()}


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    """timing, timing.tick, pools, pools.name, ...; lists are looked into and not counted."""
    if isinstance(value, list):
        for item in value:
            yield from _paths(item, prefix)
    elif isinstance(value, dict):
        for key, below in value.items():
            yield f"{prefix}{key}"
            yield from _paths(below, f"{prefix}{key}.")


def _model_paths(section: type[Section], prefix: str = "") -> dict[str, str]:
    """The same of a model, with each field's description."""
    found = {}
    for field in section.model_fields.values():
        found[f"{prefix}{field.alias}"] = field.description or ""
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            # These cannot stand there with their contents: the default is that there is none.
            if isinstance(kind, type) and issubclass(kind, Section) and kind not in (BasicAuth, ShadowService):
                found |= _model_paths(kind, f"{prefix}{field.alias}.")
    return found


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Each key's path with the comment that stands above it, its lines joined."""
    comment: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        match = re.match(r"( *(?:- )?)(\w+):", line)
        if match:
            indent = len(match[1])
            parents = [parent for parent in parents if parent[0] < indent]
            yield ".".join([*(name for _, name in parents), match[2]]), " ".join(comment)
            parents.append((indent, match[2]))
        comment = []
