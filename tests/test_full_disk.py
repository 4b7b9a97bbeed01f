"""A disk that is full is told of with the file that did not fit: the system itself names none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scaler.cli.commands import cli

FULL = Path("/dev/full")
MOMENT = ("--start", "2025-06-18T01:00:00Z", "--end", "2025-06-18T01:05:00Z")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@needs_full
def test_the_lines_of_json() -> None:
    result = CliRunner().invoke(cli, ["replay", *MOMENT, "--json", str(FULL)])
    assert (result.exit_code, result.stderr) == (2, "/dev/full: No space left on device\n")


@needs_full
@pytest.mark.parametrize("arguments", [(), ("--json", "-")], ids=["tables", "json"])
def test_standard_output(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from scaler.cli import main; main()", "replay", *MOMENT, *arguments]
    # Buffered, as at users: what does not fit is noticed at the end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with FULL.open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=buffered, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (2, "standard output: No space left on device\n")


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a real full disk: the file is opened, and what is written does not fit."""

    def full(self: Path, *_: Any, **__: Any) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    path = tmp_path / "night.html"
    result = CliRunner().invoke(cli, ["replay", *MOMENT, "--json", os.devnull, "--report", str(path)])
    assert (result.exit_code, result.stderr) == (2, f"{path}: No space left on device\n")
    assert list(tmp_path.iterdir()) == []
