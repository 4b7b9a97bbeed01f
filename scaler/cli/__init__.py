"""The command line. It alone wires settings, sources, the plan, serving and replay together."""

from __future__ import annotations

import sys
import traceback

from scaler.cli.statuses import FAULT, INTERRUPTED


def main() -> None:
    """The command `vram-scaler`. What no command expected is one line on standard error, too."""
    try:
        # Loaded here, not above: it takes 0.7 s, and Ctrl-C then would print where the imports stood.
        from scaler.cli.commands import cli

        cli.main(prog_name="vram-scaler")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as fault:
        place = traceback.extract_tb(fault.__traceback__)[-1]
        text = " ".join(f"{type(fault).__name__}: {fault}".split())
        print(f"vram-scaler: internal fault: {text} ({place.filename}:{place.lineno})", file=sys.stderr)
        sys.exit(FAULT)
