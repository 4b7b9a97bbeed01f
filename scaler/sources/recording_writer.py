"""Writes a recording so that an interruption costs a few minutes of it at most: NAME.part grows by whole blocks.

A block holds the snapshots of BLOCK_STEPS steps of the header's grid, in a .gz file as a gzip member of its own. What
is read again after an interruption are the whole blocks; the rest is cut off and asked for again. Blocks depend on the
grid alone, so the finished file has the same bytes however often it was interrupted. Only then it gets its name.
"""

from __future__ import annotations

import fcntl
import gzip
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from scaler.snapshot import Problem, Snapshot
from scaler.sources.recording import BadRecording
from scaler.sources.recording_format import (
    RecordingHeader,
    SnapshotLines,
    Unexpected,
    end_line,
    header_line,
    parse_header,
)
from scaler.sources.recording_rows import parse_line

BLOCK_STEPS = 60  # what the Prometheus source asks for at once; 15 minutes of 15 s
_READ_BYTES = 256 * 1024


def write_recording(path: Path, header: RecordingHeader, snapshots: Iterable[Snapshot]) -> int:
    """Writes the snapshots as they come; the file is there when it is whole, or not at all. Returns their number.

    Raises:
        BadRecording: for a snapshot that is not later than the one before, outside of the header's range or grid.
        OSError: if the file cannot be written.
    """
    part_of(path).unlink(missing_ok=True)
    with RecordingWriter(path, header) as writer:
        try:
            for snapshot in snapshots:
                writer.add(snapshot)
            writer.finish()
        except BaseException:
            writer.discard()
            raise
        return writer.count


def part_of(path: Path) -> Path:
    """Where a recording is while it is being made."""
    return path.with_name(f"{path.name}.part")


def header_of(part: Path) -> RecordingHeader | None:
    """The header of what an interrupted writer left; None where there is none."""
    try:
        with part.open("rb") as file:
            packed = file.read(1) == b"\x1f"
            file.seek(0)
            _, lines = next(_blocks(file, packed), (0, [b""]))
        return parse_header(parse_line(lines[0]))
    except (OSError, Unexpected):
        return None


class RecordingWriter:
    """A recording in the making: continues what an interrupted writer left beside `path`, else begins it.

    Attributes:
        count: snapshots so far, those of earlier runs included.
        problems: how many of them had that problem.
        kept: how many of them are in whole blocks, and outlast whatever happens.
        size_bytes: the size of these blocks.

    Raises:
        BadRecording: if another writer is at work, or what is there is no beginning of this recording.
        OSError: if the file cannot be written.
    """

    def __init__(self, path: Path, header: RecordingHeader) -> None:
        self.path, self.header, self.part = path, header, part_of(path)
        self.count = 0
        self.problems: Counter[Problem] = Counter()
        self.size_bytes = 0
        self.kept = 0
        self._pack = _member if path.suffix == ".gz" else bytes
        self._lines = SnapshotLines()
        self._last_s = -math.inf
        self._block: list[bytes] = []
        self._has_end = False
        self._file = self.part.open("a+b")
        try:
            self._lock()
            self._restore()
        except BaseException:
            self._file.close()
            raise

    @property
    def next_step(self) -> int:
        """The first step of the grid that is not in it yet."""
        return self._step() + 1 if self.count else 0

    @property
    def is_blank(self) -> bool:
        """True while no snapshot has shown a workload or a card."""
        return self._lines.is_blank

    def add(self, snapshot: Snapshot) -> None:
        """One more snapshot; raises BadRecording for one that could not be read back."""
        try:
            self.header.check_time(snapshot.taken_at_s, self._last_s)
        except Unexpected as error:
            raise BadRecording(f"{self.path}: snapshot {self.count + 1}: expected {error}") from None
        step = self.header.step_number(snapshot.taken_at_s)
        if self._block and step // BLOCK_STEPS != self._step() // BLOCK_STEPS:
            self._flush()
        self._block += self._lines.lines(snapshot)
        self.count, self._last_s = self.count + 1, snapshot.taken_at_s
        self.problems.update(snapshot.problems)
        if step % BLOCK_STEPS == BLOCK_STEPS - 1:
            self._flush()

    def finish(self) -> None:
        """Marks the end and puts the file in its place, over what may be there."""
        self._flush()
        if not self._has_end:
            self._append([end_line(self.count)])
        os.fsync(self._file.fileno())
        self.part.replace(self.path)

    def discard(self) -> None:
        """Removes what there is of it."""
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the whole blocks in place."""
        self._file.close()

    def _step(self) -> int:
        return self.header.step_number(self._last_s)

    def _flush(self) -> None:
        if self._block:
            self._append(self._block)
            self._block = []

    def _append(self, lines: list[bytes]) -> None:
        self._file.write(self._pack(b"".join(lines)))
        self._file.flush()
        self.size_bytes, self.kept = self._file.tell(), self.count

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRecording(f"{self.part}: another process is writing it") from None

    def _restore(self) -> None:
        """Takes up the whole blocks and cuts off what follows them."""
        self._file.seek(0)
        mine, whole_bytes = header_line(self.header), 0
        for end, lines in _blocks(self._file, self.path.suffix == ".gz"):
            if whole_bytes == 0:
                self._check_header(lines[0], mine)
            elif not self._take(lines):
                break
            whole_bytes = end
        if whole_bytes == 0:
            self._file.seek(0)
            if self._file.read(1) not in (b"", b"\x1f", b"{"):
                raise BadRecording(f"{self.part}: this is no beginning of a recording; remove it to begin anew")
        self._file.truncate(whole_bytes)
        self.size_bytes, self.kept = whole_bytes, self.count
        if whole_bytes == 0:
            self._append([mine])

    def _check_header(self, theirs: bytes, mine: bytes) -> None:
        if theirs == mine:
            return
        try:
            record = parse_line(theirs)
            parse_header(record)
        except Unexpected as error:
            raise BadRecording(f"{self.part}: line 1: expected {error}; remove it to begin a recording anew") from None
        old, new = _flat(record), _flat(parse_line(mine))
        differing = [
            f"{key} {old.get(key)!r}, not {new.get(key)!r}" for key in new | old if old.get(key) != new.get(key)
        ]
        raise BadRecording(
            f"{self.part}: begun with {'; '.join(differing)}: repeat that command to go on, or remove it to begin anew"
        )

    def _take(self, lines: list[bytes]) -> bool:
        """Takes a block for one of its own; False if it is not sound."""
        try:
            records = [(line, parse_line(line)) for line in lines]
            for line, record in records:
                if "time" in record:
                    self.header.check_time(record["time"], self._last_s)
                    self.count, self._last_s = self.count + 1, record["time"]
                    self.problems.update(Problem(*problem) for problem in record["problems"])
                elif "end" in record:
                    self._has_end = True
                else:
                    [kind] = record.keys() - {"told_by"}
                    self._lines.written(kind, line)
        except (Unexpected, TypeError, ValueError, KeyError):
            return False
        return True


def _member(data: bytes) -> bytes:
    """A gzip member without name and time: the same data give the same bytes."""
    return gzip.compress(data, compresslevel=9, mtime=0)


def _blocks(file: BinaryIO, packed: bool) -> Iterator[tuple[int, list[bytes]]]:
    """The whole blocks of a file, each with where it ends: the header, then snapshots, then the end mark."""
    if packed:
        yield from _members(file)
        return
    block: list[bytes] = []
    end = 0
    for line in file:
        end += len(line)
        block.append(line)
        # Without members a snapshot ends a block: each is whole with its line break.
        if line.endswith(b"\n") and not line.startswith((b'{"workload"', b'{"card":')):
            yield end, block
            block = []


def _members(file: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """The whole gzip members."""
    end, data = 0, b""
    while True:
        unpacker, lines = zlib.decompressobj(wbits=31), bytearray()
        try:
            while not unpacker.eof:
                data = data or file.read(_READ_BYTES)
                if not data:
                    return
                lines += unpacker.decompress(data)
                end += len(data) - len(unpacker.unused_data)
                data = unpacker.unused_data
        except zlib.error:
            return
        yield end, bytes(lines).splitlines(keepends=True)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a header by their paths."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
    return flat
