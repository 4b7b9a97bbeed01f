"""All commands in one group."""

from __future__ import annotations

import click

from scaler import __version__
from scaler.cli.check import check_command
from scaler.cli.explain import explain_command
from scaler.cli.faults import OneLineGroup
from scaler.cli.record import record_command
from scaler.cli.replay import replay_command
from scaler.cli.serve import serve_command
from scaler.cli.simulate import simulate_command

EPILOG = (
    "Exit status: 0 fine, 1 replay found what --fail-on names, or check an error, 2 unusable input (one line says "
    "which), 70 a fault of vram-scaler itself (one line says which), 130 interrupted, 141 nobody reads the output "
    "any more."
)


@click.group(
    cls=OneLineGroup,
    epilog=EPILOG,
    commands=[serve_command, replay_command, simulate_command, record_command, check_command, explain_command],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="vram-scaler")
def cli() -> None:
    """A KEDA external scaler for GPU services that share cards: own concurrency in, VRAM veto out."""
