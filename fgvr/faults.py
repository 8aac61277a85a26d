"""The --errors file: bad records with their `error`, for a person or for a second run."""

from __future__ import annotations

import contextlib
from typing import IO

from fgvr import stream
from fgvr.errors import FgvrError, reason
from fgvr.stream import Bad


class ErrorFile:
    """Bad records, each written through at once, so that a killed run loses none and --resume goes on with them.

    Args:
        path: where to; None keeps no file.
        fresh: forget what an earlier run left.

    Attributes:
        ids: records that an earlier run's stage could not use; they are not tried again.
        count: lines that an earlier run left.
    """

    def __init__(self, path: str | None, fresh: bool) -> None:
        self.path = path
        self.count = 0
        self.ids: set[str] = set()
        self._lines: set[bytes] = set()
        self._file: IO[bytes] | None = None
        if path is None:
            return
        try:
            self._file = open(path, "wb" if fresh else "a+b")  # noqa: SIM115  # closed by close()
            if not fresh:
                self._take_up(self._file)
        except OSError as error:
            raise FgvrError(f"cannot write {path}: {reason(error)}; name another --errors file") from error
        self.count = len(self._lines)

    def _take_up(self, file: IO[bytes]) -> None:
        file.seek(0)
        end = 0
        for line in file:
            try:
                record = stream.decode(line.decode()) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if not isinstance(record, dict):
                break  # torn by the kill
            end += len(line)
            self._lines.add(line)
            key = record.get("id")
            # a fault of the input (`file:line: …`) is found again when the line is read, and known by its text
            if isinstance(key, str) and str(record.get("error")).startswith(f"{key}: "):
                self.ids.add(key)
        file.truncate(end)

    def add(self, item: Bad) -> bool:
        """Write a bad record; False when an earlier run did."""
        if self._file is None:
            return True
        content = item.record if item.record is not None else {"line": item.line}
        try:
            line = stream.encode({**content, "error": str(item)})
        except ValueError:  # it cannot be written as JSON, which may be its fault
            line = stream.encode({"line": ascii(content), "error": ascii(str(item))[1:-1]})
        if line + b"\n" in self._lines:
            return False
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as error:
            raise FgvrError(f"cannot write {self.path}: {reason(error)}; make room and run again") from error
        return True

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # reported when the line was written
                self._file.close()
