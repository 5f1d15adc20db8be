"""Shards as streams: over http, from the output of a command, or from a file; each with a limit on every wait."""

import base64
import bz2
import gzip
import io
import lzma
import os
import selectors
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, cast
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from gapless import __version__
from gapless.data.addresses import scheme_of
from gapless.errors import DataError

LEAST = 2**16
"""Bytes that have to come within the time limit, unless the stream ends."""
MAX_FILE = 2**27
"""Bytes of a file beside shards."""
LATE = "(data.timeout)"
"""End of what is said where nothing came in time."""
TRANSIENT = (408, 429, 500, 502, 503, 504)
"""Answers of a server that is asked again."""
_OPENERS = (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
            urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler)  # fmt: skip


@contextmanager
def open_shard(address: str, timeout: float) -> Iterator[IO[bytes]]:
    """The content of a shard from its beginning, decompressed where it is compressed.

    Nothing but http: and https: goes to the network, and nothing but pipe: starts a program, whatever the environment
    says. Whether pipe: is allowed was asked before (see expand_shards).

    Args:
        address: checked.
        timeout: seconds that a server or command may be silent.

    Raises:
        OSError, HTTPException: it is not there, or nothing came in time; reading may raise them too.
    """
    scheme = scheme_of(address)
    raw: io.RawIOBase
    if scheme == "pipe":
        raw = _Pipe(address.partition(":")[2], timeout)
    elif scheme:
        raw = _Download(address, timeout)
    else:
        raw = _regular_file(address)
    with raw, io.BufferedReader(raw, 2**17) as buffered:
        yield _decompressed(cast(io.BufferedReader, buffered))


def fetch(url: str, timeout: float) -> bytes | None:
    """A small file; None if the server has none.

    Raises:
        DataError: the server is silent or cannot be reached, or the file is too large.
    """
    try:
        with io.BufferedReader(_Download(url, timeout)) as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except (OSError, HTTPException) as error:
        raise DataError(f"data.path: {url}: {error}") from None
    if len(content) > MAX_FILE:
        raise DataError(f"data.path: {url} has more than {MAX_FILE} bytes")
    return content


def _regular_file(path: str) -> io.FileIO:
    file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file")
    return file


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    head = file.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if head == b"\xfd7zXZ\x00" else file


class _Waiting(io.RawIOBase):
    """A stream that may not keep its reader waiting: neither silent nor in drops for ``timeout`` seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        before = time.monotonic()
        try:
            part = self._receive(min(len(buffer), LEAST))
        except TimeoutError:
            raise self._late() from None
        self._waited, self._came = self._waited + time.monotonic() - before, self._came + len(part)
        if self._came >= LEAST:
            self._waited, self._came = 0.0, 0
        elif part and self._waited > self.timeout:
            raise self._late()
        buffer[: len(part)] = part
        return len(part)

    def _receive(self, size: int) -> bytes:
        """What comes next, nothing at the end; raises TimeoutError."""
        raise NotImplementedError

    def _late(self) -> TimeoutError:
        return TimeoutError(f"less than {LEAST // 1024} KiB came in {self.timeout:g} s {LATE}")


class _Download(_Waiting):
    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(timeout)
        self._response = _request(url, timeout)

    def _receive(self, size: int) -> bytes:
        return self._response.read1(size)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_response"):
            self._response.close()
        super().close()


def _request(url: str, timeout: float) -> HTTPResponse:
    """An answer, asked for again while the server has passing troubles."""
    opener = urllib.request.OpenerDirector()
    for handler in _OPENERS:
        opener.add_handler(handler())
    end, pause = time.monotonic() + timeout, 1.0
    while True:
        try:
            return cast(HTTPResponse, opener.open(_asked(url), timeout=timeout))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in TRANSIENT:
                raise FileNotFoundError(f"the server says {error.code} {error.reason}") from None
            if time.monotonic() + pause > end:
                raise OSError(f"the server says {error.code} {error.reason}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)  # urllib wraps some errors in its own
            if isinstance(reason, TimeoutError):
                raise TimeoutError(f"no answer in {timeout:g} s {LATE}") from None
            raise OSError(str(reason)) from None
        time.sleep(pause)
        pause = min(2 * pause, 10)


def _asked(url: str) -> urllib.request.Request:
    """A request; a name and password in the address are sent as such, and to no other server."""
    place = urlsplit(url)
    plain = urlunsplit(place._replace(netloc=place.netloc.rpartition("@")[2]))
    request = urllib.request.Request(quote(plain, safe="/:?#[]@!$&'()*+,;=%~"))
    request.add_header("User-Agent", f"gapless/{__version__}")
    if place.username is not None:
        secret = f"{unquote(place.username)}:{unquote(place.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}")
    return request


class _Pipe(_Waiting):
    def __init__(self, command: str, timeout: float) -> None:
        super().__init__(timeout)
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        self._descriptor = self._process.stdout.fileno()
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._descriptor, selectors.EVENT_READ)

    def _receive(self, size: int) -> bytes:
        if not self._ready.select(self.timeout):
            raise TimeoutError
        part = os.read(self._descriptor, size)
        if not part and (code := self._code()) not in (0, 141, -signal.SIGPIPE):
            raise OSError(f"the command ended with exit code {code}")
        return part

    def _code(self) -> int:
        try:
            return self._process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def close(self) -> None:
        if not self.closed and hasattr(self, "_ready"):
            self._ready.close()
            with suppress(ProcessLookupError, PermissionError):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
        super().close()
