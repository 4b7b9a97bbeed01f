"""check: each trap gives exactly its finding, at its line; the shipped examples give none; no file is too odd."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.check.finding import Finding, Level
from scaler.check.lint import lint
from scaler.check.manifest import read_manifests
from scaler.check.object_rules import owned
from scaler.check.rules import RULES
from scaler.check.shape import shape_faults
from scaler.cli.commands import cli
from scaler.cli.statuses import FOUND, UNUSABLE
from scaler.documents import MOST_BYTES, MOST_NODES
from scaler.incident import SCALED_OBJECTS
from scaler.policy import BadPolicy, OperatorPolicy
from tests.check_rows import BEHAVIOR, E5, ROWS, TO_ZERO, Row, add, edited

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "deploy" / "examples" / "scaledobject.yaml"


def written(folder: Path, text: str, name: str = "so.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def linted(folder: Path, text: str, operator: OperatorPolicy | None = None) -> list[Finding]:
    return lint(read_manifests([written(folder, text)]), operator or OperatorPolicy())


def checked(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments], prog_name="vram-scaler", input=stdin)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.label) for row in ROWS])
def test_each_trap_gives_exactly_its_finding_at_its_line(tmp_path: Path, row: Row) -> None:
    text = edited(row.edits)
    found = linted(tmp_path, text)
    assert [finding.id for finding in found] == row.ids
    if found:
        at = row.at or row.edits[0][1].splitlines()[0]
        assert found[0].line == text[: text.index(at)].count("\n") + 1
        assert all(finding.what and finding.why and finding.write for finding in found)


def test_every_rule_has_a_row_and_a_section_in_the_docs() -> None:
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids))
    shown = {found for row in ROWS for found in row.ids} | {"same-name", "same-target"}
    assert shown == set(ids)
    docs = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", docs, re.MULTILINE))
    assert documented == {rule.id: str(rule.level) for rule in RULES}


@pytest.mark.parametrize("path", [EXAMPLE, SCALED_OBJECTS], ids=["the example", "the incident's"])
def test_the_shipped_manifests_give_none(path: Path) -> None:
    assert lint(read_manifests([str(path)]), OperatorPolicy()) == []
    result = checked("-f", str(path))
    assert result.exit_code == 0
    assert result.output.startswith("nothing found in ")


def test_several_findings_at_once_by_line_each_with_its_words(tmp_path: Path) -> None:
    found = linted(
        tmp_path, edited([("AverageValue", "Value"), (BEHAVIOR, ""), add("        pol: x\n"), ("Count: 11", "Cout: 2")])
    )
    assert [(finding.line, finding.id) for finding in found] == [
        (6, "behavior-missing"),
        (12, "unknown-field"),
        (15, "metric-type"),
        (20, "metadata"),
    ]
    assert "did you mean maxReplicaCount?" in found[1].what
    assert found[1].write == "maxReplicaCount: 2"
    assert "did you mean pool?" in found[3].what
    assert found[3].write == 'pool: "x"'


def test_a_name_leaves_room_for_the_hpas(tmp_path: Path) -> None:
    [found] = linted(tmp_path, edited([("name: e5", f"name: {'e' * 55}")]))
    assert "55 characters; it takes at most 54" in found.what  # 63 - len("keda-hpa-")


def test_behavior_written_as_told_is_fine(tmp_path: Path) -> None:
    [found] = linted(tmp_path, E5.replace(BEHAVIOR, ""))
    advised = "".join(f"  {line}\n" for line in found.write.splitlines())
    assert linted(tmp_path, E5.replace(BEHAVIOR, advised)) == []


def test_documents_are_counted_and_lines_are_the_files(tmp_path: Path) -> None:
    clip = E5.replace("e5", "clip").replace("AverageValue", "Value")
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: e5}\n"
    text = f"---\n{E5}---\n{service}---\n---\n{clip}"
    [found] = linted(tmp_path, text)
    assert (found.document, found.object, found.path) == (4, "kserve-models/clip", "spec.triggers[0].metricType")
    assert text.splitlines()[found.line - 1] == "      metricType: Value"


def test_items_of_a_list_have_their_own_lines(tmp_path: Path) -> None:
    items = "".join(f"- {line}\n" if index == 0 else f"  {line}\n" for index, line in enumerate(E5.splitlines()))
    text = f"apiVersion: v1\nkind: List\nitems:\n{items}{items.replace('e5', 'clip').replace('AverageValue', 'Value')}"
    [found] = linted(tmp_path, text)
    assert found.path == "items[1].spec.triggers[0].metricType"
    assert text.splitlines()[found.line - 1] == "        metricType: Value"


def test_a_finding_behind_an_anchor_stands_where_the_text_stands(tmp_path: Path) -> None:
    anchored = E5.replace("        scaleUp:", "        scaleUp: &up")
    start, end = anchored.index("        scaleDown:"), anchored.index("  triggers:")
    text = anchored[:start] + "        scaleDown:\n          <<: *up\n          tolerance: '1'\n" + anchored[end:]
    [found] = linted(tmp_path, text)
    assert found.id == "tolerance"
    assert text.splitlines()[found.line - 1].strip() == "tolerance: '1'"
    [found] = linted(
        tmp_path, text.replace("          tolerance: '1'\n", "").replace('tolerance: "0"', "tolerance: '2'", 1)
    )[:1]
    assert text.splitlines()[found.line - 1].strip() == 'tolerance: "0"'


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        pytest.param(E5, ["same-name"], id="the same once more"),
        pytest.param(E5.replace("name: e5\n", "name: clip\n"), ["same-target"], id="one Deployment for two"),
        pytest.param(
            E5.replace("e5", "clip").replace("      behavior:", "      name: keda-hpa-e5\n      behavior:"),
            ["same-target"],
            id="one HPA for two",
        ),
        pytest.param(E5.replace("kserve-models", "other"), [], id="another namespace"),
    ],
)
def test_what_only_one_can_have(tmp_path: Path, second: str, expected: list[str]) -> None:
    found = linted(tmp_path, f"{E5}---\n{second}")
    assert [finding.id for finding in found] == expected
    assert all(finding.line > E5.count("\n") and ", line 1" in finding.what for finding in found)


def test_the_pool_is_the_operators(tmp_path: Path) -> None:
    path = written(tmp_path, edited([add('        lowWatermark: "15%"\n        pool: t4\n'), *TO_ZERO]))
    config = written(
        tmp_path, "pools: [{name: t4, lowWatermark: 20%, highWatermark: 25%, startupTime: 6m}]\n", "config.yaml"
    )
    result = checked("-f", path, "--config", config, "--format", "json")
    assert [json.loads(line)["id"] for line in result.output.splitlines()] == ["cooldown", "looser-than-pool"]
    assert result.exit_code == 0  # warnings alone


def test_formats(tmp_path: Path) -> None:
    path = written(
        tmp_path, edited([("AverageValue", "Value"), ('tolerance: "0"', 'tolerance: "0.05"')]), "100%,a.yaml"
    )
    text = checked("-f", path)
    assert text.exit_code == FOUND
    assert f"{path}:34: error: metricType is 'Value'" in text.output
    assert text.output.endswith("1 error and 1 warning in 1 ScaledObject\n")
    rows = [json.loads(line) for line in checked("-f", path, "--format", "json").output.splitlines()]
    assert [(row["level"], row["line"], row["id"]) for row in rows] == [
        ("warning", 18, "tolerance"),
        ("error", 34, "metric-type"),
    ]
    assert set(rows[0]) == {"id", "level", "file", "document", "line", "path", "object", "what", "why", "write"}
    github = checked("-f", path, "--format", "github").output.splitlines()
    escaped = path.replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
    assert github[0].startswith(f"::warning file={escaped},line=18,title=tolerance::scaleUp.tolerance is '0.05'")
    assert "10 %25 where" in github[0]
    assert github[0].endswith('%0A%0Atolerance: "0"')
    assert len(github) == 2


def test_standard_input_and_trailing_files(tmp_path: Path) -> None:
    result = checked("-f", "-", str(EXAMPLE), stdin=E5.replace("e5", "clip").replace("AverageValue", "Value"))
    assert result.exit_code == FOUND
    assert "standard input:34: error" in result.output
    assert result.output.endswith("1 error in 2 ScaledObjects\n")


def test_a_configuration_alone(tmp_path: Path) -> None:
    assert checked("--config", str(ROOT / "deploy" / "base" / "vram-scaler.yaml")).exit_code == 0
    bad = checked("--config", written(tmp_path, "pols: []\n"))
    assert bad.exit_code == UNUSABLE
    assert "did you mean pools?" in bad.output


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "no ScaledObject in it", id="empty"),
        pytest.param("---\n# nothing\n---\n", "no ScaledObject in it", id="comments"),
        pytest.param("kind: Service\n", "no ScaledObject in it", id="another kind"),
        pytest.param("a: [1\nb: 2", "so.yaml, line 2:", id="not YAML"),
        pytest.param("- e5", "line 1: document 1: not a manifest: list", id="a list"),
        pytest.param("just text", "not a manifest: str", id="a text"),
        pytest.param("kind: List\nitems: 3", "items: not a list", id="a List of nothing"),
        pytest.param("kind: List\nitems: [3]", "items[0]: not a manifest: int", id="a List of numbers"),
        pytest.param("a: 1\nb: 2\na: 3\n", "line 3: a: this key stands twice", id="a key twice"),
        pytest.param("a: \x00", "not YAML", id="NUL"),
        pytest.param("a: !!python/object:os.system x", "line 1:", id="a tag"),
        pytest.param("? [a]\n: b", "line 1:", id="a list for a key"),
        pytest.param("[" * 100_000, "not YAML", id="deep"),
        pytest.param(f"a: {'9' * 5000}", "not YAML", id="a number of 5000 digits"),
        pytest.param(f"# {'x' * MOST_BYTES}", "more than 4 MiB", id="huge"),
        pytest.param(BOMB, f"its anchors make more than {MOST_NODES} values", id="anchors of anchors"),
        pytest.param("kind: ScaledObject\nspec: &a\n  b: *a\n", "its anchors make more", id="an anchor in itself"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    result = checked("-f", written(tmp_path, text), str(EXAMPLE))
    assert result.exit_code == UNUSABLE
    assert result.output.count("\n") == 1
    assert "so.yaml" in result.output
    assert expected in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], "-f is missing", id="no file"),
        pytest.param(["-f", "none.yaml"], "none.yaml: No such file", id="no such file"),
        pytest.param(["-f", str(ROOT)], "Is a directory", id="a folder"),
        pytest.param(["-f", str(EXAMPLE), "--format", "xml"], "'xml' is not one of", id="no such format"),
    ],
)
def test_unusable_flags_are_one_line(arguments: list[str], expected: str) -> None:
    result = checked(*arguments)
    assert result.exit_code == UNUSABLE
    assert result.output.count("\n") == 1
    assert expected in result.output


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            'kind: ScaledObject\nmetadata: {name: "a\\e[31mb\\n::error::c"}\nspec: {triggers: [{type: "\\ud800"}]}',
            id="escapes",
        ),
        pytest.param("kind: ScaledObject\nmetadata: 3\nspec: []", id="wrong all over"),
        pytest.param("kind: ScaledObject", id="nothing else"),
        pytest.param("kind: ScaledObject\n1: 2\ntrue: 3\nnull: 4\nspec: {triggers: {}}", id="keys that are no text"),
        pytest.param("kind: ScaledObject\nspec: {minReplicaCount: -1.0e+400, maxReplicaCount: .nan}", id="infinities"),
        pytest.param(E5.replace('"1"', "[[[[1]]]]"), id="lists in the metadata"),
    ],
)
def test_hostile_values_are_findings_without_control_characters(tmp_path: Path, text: str) -> None:
    for form in ("text", "github", "json"):
        result = checked("-f", written(tmp_path, text), "--format", form)
        assert result.exit_code == FOUND, result.output
        assert result.output.replace("\n", "").isprintable()
        assert "\n::error::c" not in result.output


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


PLACES = places(yaml.safe_load(E5))[1:]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(where=st.sampled_from(PLACES), value=VALUES)
def test_no_value_anywhere_breaks_it(tmp_path_factory: pytest.TempPathFactory, where: Any, value: Any) -> None:
    manifest = yaml.safe_load(E5)
    place = manifest
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    path = tmp_path_factory.mktemp("any") / "so.yaml"
    path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
    if where == ("kind",) and value != "ScaledObject":
        with pytest.raises(BadPolicy):
            read_manifests([str(path)])
        return
    found = lint(read_manifests([str(path)]), OperatorPolicy())
    lines = path.read_text(encoding="utf-8").count("\n")
    assert all(1 <= finding.line <= lines and finding.what.isprintable() for finding in found)
    if list(shape_faults(manifest)):
        assert any(finding.level is Level.ERROR for finding in found)


def test_owners_are_name_target_and_hpa() -> None:
    [manifest] = read_manifests([str(EXAMPLE)])
    assert [owner.kind for owner in owned(manifest)] == ["ScaledObject", "Deployment", "HPA"]
