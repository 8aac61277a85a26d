"""Fetching a data set's archives: resumed where they broke off, checked against their MD5, unpacked, removed."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fgvr import signals
from fgvr.datasets.spec import Archive, Spec
from fgvr.errors import NO_ROOM, FgvrError, TryAgain, reason

CHUNK = 1 << 20
TIMEOUT_S = 60
TARS = (".tar", ".tar.gz", ".tgz")
# (chunks, total bytes or None, bytes that are there already) -> the chunks, shown as they pass
Show = Callable[[Iterable[bytes], "int | None", int], Iterable[bytes]]


def fetch(spec: Spec, root: Path, split: str, say: Callable[[str], None], show: Show) -> None:
    """Put what is missing of a split below the root.

    Raises:
        FgvrError: the publisher offers no checked download, another checksum, or the address is gone.
        TryAgain: the server or the network failed; what came is kept.
    """
    if not spec.archives:
        raise FgvrError(f"{spec.title} has no download to be checked; get it yourself: {spec.source}")
    for archive in spec.archives:
        file = root / archive.url.rpartition("/")[2]
        if archive.splits and split not in archive.splits:
            continue
        if (root / archive.gives).exists() and not _packed(file):
            continue
        if not file.exists():
            say(f"fetching {archive.url}")
            download(archive, file, show)
        elif (found := _md5(file)) != archive.md5:
            raise FgvrError(f"{file}: MD5 {found}, must be {archive.md5}; remove it and run again")
        if _packed(file):
            say(f"unpacking {file}")
            _unpack(file, root)
            file.unlink()


def _packed(file: Path) -> bool:
    return file.name.endswith(TARS) and file.exists()


def download(archive: Archive, file: Path, show: Show) -> None:
    """One file, by way of `<file>.part`, which a later call goes on with. Raises as `fetch` does."""
    part = file.with_name(file.name + ".part")
    try:
        _receive(archive.url, part, show)
    except OSError as error:  # URLError, timeouts and resets are all of this kind
        if error.errno in NO_ROOM:
            raise
        _refused(archive.url, error)
        raise TryAgain(f"{archive.url}: {reason(error)}; run again, what came is kept in {part}") from error
    found = _md5(part)
    if found != archive.md5:
        part.unlink()
        raise FgvrError(f"{archive.url}: MD5 {found}, must be {archive.md5}; removed, run again or get it elsewhere")
    os.replace(part, file)


def _refused(url: str, error: OSError) -> None:
    """Raise FgvrError where trying again is in vain."""
    status = getattr(error, "code", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        raise FgvrError(f"{url}: HTTP {status}; get it elsewhere, see `fgvr dataset --list`") from error
    if getattr(error, "filename", None) is not None and status is None:
        raise FgvrError(f"cannot write {error.filename}: {reason(error)}") from error


def _receive(url: str, part: Path, show: Show) -> None:
    """Append to `part` what is missing; a server that knows no ranges sends all of it again."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "fgvr", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # all of it is there
            return
        raise
    with answer:
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as out:
            try:
                for chunk in show(iter(lambda: answer.read(CHUNK), b""), total, have):
                    signals.check()
                    out.write(chunk)
            except HTTPException as error:
                raise OSError(f"broke off: {error!r}") from error
    if total is not None and part.stat().st_size < total:
        raise OSError(f"broke off at {part.stat().st_size} of {total} bytes")


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as data:
        while chunk := data.read(CHUNK):
            signals.check()
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(file: Path, root: Path) -> None:
    """A tar below the root; members that would leave it are refused."""
    safe: dict[str, Any] = {"filter": "data"}
    if not hasattr(tarfile, "data_filter"):
        raise FgvrError(f"this Python unpacks no tar safely; run `tar -xf {file} -C {root}`, then without --download")
    try:
        with tarfile.open(file) as packed:
            for member in packed:
                signals.check()
                packed.extract(member, root, **safe)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FgvrError(f"cannot unpack {file}: {reason(error)}; make room or remove it, then run again") from error
