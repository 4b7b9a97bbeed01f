"""All commands in one group."""

from __future__ import annotations

import importlib

import click

from scaler import __version__
from scaler.cli.faults import OneLineGroup

EPILOG = (
    "Exit status: 0 fine, 1 replay found what --fail-on names, or check an error, 2 unusable input (one line says "
    "which), 70 a fault of vram-scaler itself (one line says which), 130 interrupted, 141 nobody reads the output "
    "any more."
)
# Each in scaler/cli/NAME.py as NAME_command.
COMMANDS = ("serve", "replay", "simulate", "record", "check", "explain", "agent")


class CommandsOnDemand(OneLineGroup):
    """Imports the command that is asked for and no other: all of them take 73 MB, the agent by itself 29 MB."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"scaler.cli.{cmd_name}"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=CommandsOnDemand,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="vram-scaler")
def cli() -> None:
    """A KEDA external scaler for GPU services that share cards: own concurrency in, VRAM veto out."""
