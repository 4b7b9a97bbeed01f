"""A recording: the Snapshots of some hours in one file, JSON Lines, gzipped where the name ends in .gz.

Reading takes the memory of a few snapshots, whatever the length. The lines: recording_format.py; how they are written:
recording_writer.py.
"""

from __future__ import annotations

import gzip
import math
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn

from scaler.snapshot import Snapshot
from scaler.sources.recording_format import SAME_INSTANT_S, RecordingHeader, Unexpected, parse_header
from scaler.sources.recording_rows import parse_line, snapshots_in
from scaler.sources.source import SourceUnavailable

_LONGEST_LINE = 64 * 1024**2  # 1,000 services and 2,000 cards take 0.5 MB; what is longer is no recording

_Records = Generator[tuple[int, dict[str, Any]], None, None]


class BadRecording(SourceUnavailable):
    """A file that is no whole and sound recording; the line names the file, the line number and what was expected."""


class RecordingSource:
    """A recording as a Source. Reads on where it stands: only asking for an earlier time starts from the top again.

    Raises:
        BadRecording: at once if the file cannot be opened or does not begin as a recording; later, from either method,
            when the line that is unsound is reached.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(_records(path)) as records:
            self.header = _header(path, records)
        self._place: _Place | None = None
        self._lock = threading.Lock()

    def snapshot_at(self, at_s: float) -> Snapshot:
        """The newest snapshot that is not younger than at_s and at most one and a half steps older. Its readings are
        aged by the difference, as a live source would show them.

        Raises:
            SourceUnavailable: if there is none.
            BadRecording: if the file is unsound up to there.
        """
        with self._lock:
            place, self._place = self._place, None  # an unsound line ends the pass: the next call begins a new one
            if place is None or (place.newest is not None and at_s < place.newest.taken_at_s - SAME_INSTANT_S):
                place = _Place(_read(self.path))
            newest = place.at(at_s)
            self._place = place
        return self._fresh(newest, at_s)

    def snapshots(self, start_s: float, end_s: float, step_s: float) -> Iterator[Snapshot]:
        """What snapshot_at gives at start, start + step, ... up to and including end, in one pass over the file.

        Raises:
            SourceUnavailable, BadRecording: as snapshot_at, from the first instant that has no snapshot.
        """
        if not (step_s > 0 and math.isfinite(start_s) and math.isfinite(end_s)):
            raise ValueError(f"start {start_s}, end {end_s}, step {step_s}: expected finite times and a step above 0 s")
        place = _Place(_read(self.path))
        for number in range(math.floor((end_s - start_s + SAME_INSTANT_S) / step_s) + 1):
            at_s = start_s + number * step_s
            yield self._fresh(place.at(at_s), at_s)

    def _fresh(self, newest: Snapshot | None, at_s: float) -> Snapshot:
        header = self.header
        if newest is None or at_s - newest.taken_at_s > 1.5 * header.step_s + SAME_INSTANT_S:
            before = f", the newest before is of {_rfc3339(newest.taken_at_s)}" if newest else ""
            held = f"it was asked for {_rfc3339(header.start_s)} to {_rfc3339(header.end_s)}"
            raise SourceUnavailable(f"{self.path}: no snapshot for {_rfc3339(at_s)}; {held}{before}")
        return _aged(newest, at_s)


class _Place:
    """A place in the file: the newest snapshot up to the time asked for, and the one after it."""

    def __init__(self, stream: Iterator[Snapshot]) -> None:
        self._stream = stream
        self.newest: Snapshot | None = None
        self._following = next(stream, None)

    def at(self, at_s: float) -> Snapshot | None:
        while self._following is not None and self._following.taken_at_s <= at_s + SAME_INSTANT_S:
            self.newest, self._following = self._following, next(self._stream, None)
        return self.newest


def _aged(snapshot: Snapshot, at_s: float) -> Snapshot:
    older_s = at_s - snapshot.taken_at_s
    if older_s < SAME_INSTANT_S:
        return snapshot

    def age(value: float | None) -> float | None:
        return None if value is None else value + older_s

    return Snapshot(
        taken_at_s=at_s,
        workloads={
            key: replace(reading, replicas_age_s=age(reading.replicas_age_s), signals_age_s=age(reading.signals_age_s))
            for key, reading in snapshot.workloads.items()
        },
        cards={key: replace(card, age_s=age(card.age_s)) for key, card in snapshot.cards.items()},
        problems=snapshot.problems,
        asked=snapshot.asked,
    )


def _read(path: Path) -> Iterator[Snapshot]:
    """All snapshots in order; raises BadRecording where the file stops being sound."""
    with closing(_records(path)) as records:
        header = _header(path, records)
        number = 1

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal number
            for number, record in records:  # noqa: B007 - the number is for the refusal below
                yield record

        try:
            yield from snapshots_in(counted(), header)
        except Unexpected as error:
            _refuse(path, number, str(error))


def _header(path: Path, records: _Records) -> RecordingHeader:
    number, record = next(records, (1, {}))
    try:
        return parse_header(record)
    except Unexpected as error:
        _refuse(path, number, str(error))


def _records(path: Path) -> _Records:
    """The number and the JSON object of each line."""
    number = 0
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            lines: BufferedIOBase = gzip.GzipFile(fileobj=file, mode="rb") if packed else file
            while line := lines.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise Unexpected(f"a line below {_LONGEST_LINE} bytes")
                yield number, parse_line(line)
    except Unexpected as error:
        _refuse(path, number, str(error))
    except EOFError:
        _refuse(path, number + 1, "more: the gzip stream is cut off")
    except (gzip.BadGzipFile, zlib.error) as error:
        _refuse(path, number + 1, f"sound gzip data ({error})")
    except OSError as error:
        raise BadRecording(f"{path}: cannot be read: {error.strerror or error}") from None


def _refuse(path: Path, number: int, expected: str) -> NoReturn:
    raise BadRecording(f"{path}: line {number}: expected {' '.join(expected.split())}") from None


def _rfc3339(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return repr(at_s)
