"""How the process ends, in numbers. No imports here: the entry point needs them before anything else is loaded."""

from __future__ import annotations

FOUND = 1
UNUSABLE = 2
FAULT = 70  # EX_SOFTWARE of sysexits.h: not the input's fault, and never 1, which means "found"
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
NO_READER = 141  # 128 + SIGPIPE: `vram-scaler replay | head` is no fault, and no finding either
