"""What every test needs: nothing that one test configures may reach another."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog

# A shell's `make test &` leaves SIGINT ignored, and what tests start would inherit that: no Ctrl-C could be tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()
