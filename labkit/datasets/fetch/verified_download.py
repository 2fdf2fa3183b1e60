"""Download of one file over HTTP: resumed after an interruption, verified before use.

``NAME.part`` holds the received beginning of a file; a later call resumes there with an HTTP Range
request. ``NAME.part.version`` holds the version of the file that the server sent (its ETag or
date), so that two versions are never joined. Only a complete and verified file gets its final name;
pooch computes the hash and renames the file.
"""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests

from labkit.errors import LabkitError
from labkit.system.progress_bars import progress_bar

ATTEMPTS = 3
"""Number of attempts after broken connections."""

CHUNK = 1 << 16
"""Bytes received at a time; at most so many are lost when a connection breaks."""

TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""


def download(url: str, path: Path, sha256: str | None = None, size: int | None = None) -> str:
    """Download a file to ``path`` unless it exists, and verify it.

    Args:
        url: http or https.
        path: the target file; missing folders are created.
        sha256: expected hash, also of an existing file; None if unknown.
        size: expected bytes; None if unknown.

    Returns:
        The file's sha256, for the caller to record if none was known.

    Raises:
        LabkitError: no connection, a server error, an unexpected file, or too little disk space.
            Received bytes stay in ``NAME.part`` for the next call, unless they are wrong.
    """
    if path.is_file() and sha256 and pooch.file_hash(str(path)) != sha256:
        raise LabkitError(
            f"{path}: its sha256 is not {sha256}; the file is damaged or another version. Remove"
            " it and fetch it again"
        )
    if not path.is_file():
        pooch.get_logger().setLevel("WARNING")  # no advice on its own hash argument
        try:
            pooch.retrieve(
                url,
                f"sha256:{sha256}" if sha256 else None,
                fname=path.name,
                path=path.parent,
                downloader=_Resume(path, size, checked=sha256 is not None),
            )
        except ValueError as error:  # pooch's word for a wrong hash
            raise LabkitError(
                f"{url}: the file received is damaged or another version; it was removed. {error}"
            ) from None
        except OSError as error:
            raise _write_error(path, size, error) from None
    return str(pooch.file_hash(str(path)))


class _Resume:
    """Resuming downloader for pooch, which calls it with the URL and the final file name."""

    def __init__(self, path: Path, size: int | None, checked: bool) -> None:
        self.part = path.with_name(f"{path.name}.part")
        self.version = path.with_name(f"{path.name}.part.version")
        self.size, self.checked = size, checked

    def __call__(self, url: str, output_file: str, _: object) -> None:
        problem: object = "the server sent less than it announced"
        for _attempt in range(ATTEMPTS):
            try:
                total = self._receive(url)
            except requests.HTTPError as error:
                answer = error.response
                raise LabkitError(
                    f"{url}: the server answered {answer.status_code} {answer.reason}"
                ) from None
            except requests.RequestException as error:
                problem = error
                continue
            if total is None or self._have() == total:
                self.part.replace(output_file)
                self.version.unlink(missing_ok=True)
                return
        if have := self._have():
            raise LabkitError(
                f"{url}: the connection broke after {have:,} bytes ({problem}); run the command"
                " again to resume"
            )
        raise LabkitError(
            f"{url}: cannot reach {urlsplit(url).hostname}; check the network ({_reason(problem)})"
        )

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, url: str) -> int | None:
        """Request the missing bytes and append them; return the announced size of the file."""
        have = self._have()
        version = self.version.read_text() if self.version.exists() else ""
        if not version and not self.checked:
            have = 0  # the rest may be of another version, and nothing could detect that
        headers = {"Accept-Encoding": "identity"}  # so that bytes on the wire are the file's
        if have:
            headers["Range"] = f"bytes={have}-"
            if version:
                headers["If-Range"] = version
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if have and response.status_code == requests.codes.requested_range_not_satisfiable:
                total = _total(response)
                if total != have:  # the part is longer than the file: of another version
                    self._forget()
                    return self._receive(url)
                return total
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            if resumed and not response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            ):
                raise LabkitError(f"{url}: the server sent another part than requested")
            if not resumed:  # no Range support, or the file changed meanwhile: from the start
                have = 0
            total = _total(response)
            self._check(url, total, have)
            self.version.write_text(
                response.headers.get("ETag") or response.headers.get("Last-Modified", "")
            )
            with self.part.open("ab" if resumed else "wb") as file:
                self._copy(response, file, total, have)
            return total

    def _copy(
        self, response: requests.Response, file: BinaryIO, total: int | None, have: int
    ) -> None:
        name = self.part.name.removesuffix(".part")
        with progress_bar(
            desc=name, total=total, initial=have, unit="B", unit_scale=True, unit_divisor=1024
        ) as bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))

    def _check(self, url: str, total: int | None, have: int) -> None:
        """Refuse, before receiving it, a file of unexpected size or one that does not fit."""
        if self.size is not None and total is not None and total != self.size:
            self._forget()
            raise LabkitError(
                f"{url}: the server announces {total:,} bytes, expected {self.size:,}; this is"
                " another file (a login page in between, or a new version)"
            )
        needed = (total or self.size or 0) - have
        free = shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise LabkitError(
                f"{self.part.parent}: the disk is too full: {needed:,} bytes needed, {free:,} free"
            )

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)


def _total(response: requests.Response) -> int | None:
    """Size of the complete file in the response headers; None if not given."""
    if match := re.fullmatch(r"bytes .*/(\d+)", response.headers.get("Content-Range", "")):
        return int(match[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _write_error(path: Path, size: int | None, error: OSError) -> LabkitError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        part = path.with_name(f"{path.name}.part")
        have = part.stat().st_size if part.exists() else 0
        needed = f"{size - have:,} more bytes needed" if size else f"{have:,} bytes received"
        return LabkitError(
            f"{path.parent}: the disk is full: {needed}, {free:,} free; make room and run the"
            " command again to resume"
        )
    return LabkitError(f"{path}: cannot be written: {error.strerror or error}")


def _reason(problem: object) -> str:
    """The cause within an error of requests, which repeats the URL and the libraries below it."""
    inner = problem.args[0] if isinstance(problem, Exception) and problem.args else problem
    return str(getattr(inner, "reason", inner)).rpartition("): ")[2]
