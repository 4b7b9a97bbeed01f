"""What the API server or KEDA refuses is no service: whatever reads manifests refuses it by the rules of `check`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scaler.check.lint import refusal
from scaler.check.rules import REFUSED, RULES
from scaler.cli.commands import cli
from scaler.documents import read_documents
from scaler.incident import RECORDING
from scaler.manifests import read_services
from scaler.policy import BadPolicy, OperatorPolicy
from tests.check_rows import E5, ROWS, Row, edited

MOMENT = ("--recording", str(RECORDING), "--start", "2025-06-18T01:00:00Z", "--end", "2025-06-18T01:00:00Z")


def invoked(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="vram-scaler", input=stdin)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.label) for row in ROWS])
def test_exactly_what_check_says_is_refused(tmp_path: Path, row: Row) -> None:
    path = tmp_path / "so.yaml"
    path.write_text(edited(row.edits))
    [value] = read_documents(str(path))
    is_refused = any(each in REFUSED for each in row.ids)
    assert (refusal(value) is not None) == is_refused
    if is_refused:
        with pytest.raises(BadPolicy, match=r"^\S+so\.yaml, document 1, (ScaledObject )?\S+: [^\n]+$"):
            read_services([str(path)], OperatorPolicy(), "team", refusal)


def test_the_rules_that_refuse_are_rules() -> None:
    assert set(REFUSED) <= {rule.id for rule in RULES}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        pytest.param(
            ("keda.sh/v1alpha1", "apps/v1"),
            "kserve-models/e5: apiVersion: 'apps/v1': Input should be 'keda.sh/v1alpha1'; it takes keda.sh/v1alpha1",
            id="apiVersion",
        ),
        pytest.param(
            ("name: e5\n", "name: E5_\n"),
            "kserve-models/E5_: metadata.name: 'E5_' is not a name; it takes lower-case letters, digits, - and .",
            id="name",
        ),
        pytest.param(
            ("maxReplicaCount: 11", "maxReplicaCount: 0"),
            "kserve-models/e5: spec.maxReplicaCount: 0: Input should be greater than or equal to 1; it takes a whole "
            "number from 1 on",
            id="bound",
        ),
    ],
)
def test_a_replay_refuses_it_in_one_line(tmp_path: Path, edit: tuple[str, str], said: str) -> None:
    text = edited([edit])
    path = tmp_path / "so.yaml"
    path.write_text(text)
    result = invoked("replay", *MOMENT, "-f", str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{path}, document 1, {said}\n")
    piped = invoked("replay", *MOMENT, "-f", "-", stdin=text)
    assert (piped.exit_code, piped.stderr) == (2, f"standard input, document 1, {said}\n")
    recorded = invoked("record", "--prometheus", "http://x", *MOMENT[2:], "-o", str(tmp_path / "r.gz"), "-f", str(path))
    assert (recorded.exit_code, recorded.stderr) == (2, result.stderr)
    assert not (tmp_path / "r.gz").exists()


def test_what_is_dropped_unsaid_or_works_badly_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "so.yaml"
    path.write_text(E5.replace("  minReplicaCount: 1", "  minReplicasCount: 1"))
    assert invoked("check", "-f", str(path)).exit_code == 1
    assert invoked("replay", *MOMENT, "-f", str(path)).exit_code == 0
