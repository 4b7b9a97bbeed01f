"""How commands end: whatever is wrong with the input is one line on standard error and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

import click

from scaler.cli.statuses import INTERRUPTED, NO_READER, UNUSABLE

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a write, of which the system names no file


class Unusable(click.ClickException):
    """Input that cannot be used; the message names file or flag, value and range."""


class OneLineGroup(click.Group):
    """A group whose commands end in one line where click would draw a usage box and Python a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """See click.Command.main; ends the process with one of `statuses`. What is no fault of input is for `main`."""
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as shown:
            click.echo(shown.format_message(), err=True)
            sys.exit(UNUSABLE)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "vram-scaler"
            _end(f"{command}: {error.format_message()}")
        except click.ClickException as error:
            _end(error.format_message())
        except _refusals() as error:
            _end(str(error))
        except click.Abort:
            sys.exit(INTERRUPTED)
        except OSError as error:
            # Files are named by what writes them (`json_output`, `write_page`): what is left is standard output.
            name = error.filename
            if name is None and error.errno in _DISK_FAULTS:
                name = "standard output"
                _give_up_output()
            _end(f"{name}: {error.strerror}" if name else str(error))
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _give_up_output()
            ctx.exit(NO_READER)
        return result


def warn(text: str) -> None:
    """One line on standard error that changes nothing about the outcome."""
    click.echo(f"warning: {_flat(text)}", err=True)


def _give_up_output() -> None:
    """Python flushes once more at its end, and would complain then."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refusals() -> tuple[type[Exception], ...]:
    """What the layers below refuse input with. Asked for only once something was raised: it brings in pydantic."""
    from scaler.policy import BadPolicy
    from scaler.sources.source import SourceUnavailable

    return BadPolicy, SourceUnavailable


def _end(text: str) -> NoReturn:
    click.echo(_flat(text), err=True)
    sys.exit(UNUSABLE)


def _flat(text: str) -> str:
    return " ".join(text.split())
