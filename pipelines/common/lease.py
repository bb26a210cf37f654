"""A lock in a bucket: an object that says who has it, written on condition that nobody else has written meanwhile.

Who has it writes it anew every few seconds. Who waits looks at it, and takes it once it has stayed the same for
`LEASE_S` of looking: no clocks of two machines are compared, and time in which the server is away does not count. The
lease of a process of the same machine that has died is taken at once. To give it back is to write that it is free.

A process that could not renew its lease for so long, because it was stopped or cut off, may have lost it without having
noticed. So what is written below a lease must be whole by itself, as all that `storage` writes is; and whoever marks
something as done asks just before whether the lease is still there: `Claim.check`, in any process that works for it.
"""

import json
import logging
import os
import threading
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipelines.common.bucket import BucketPath
from pipelines.common.bucket_client import StorageError

log = logging.getLogger(__name__)

LEASE_S = 30.0
_LOOK_S = 1.0  # between two looks of who waits
_RENEWALS = 5  # in the time of a lease


class LeaseLost(StorageError):
    """Another process has taken over what was held."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What shows that a lease is held, in any process; without a path, of a lock that nobody else can take."""

    path: BucketPath | None = None
    token: str = ""

    def check(self) -> None:
        """Raise LeaseLost where the lease has got lost; the bucket is asked."""
        if self.path is None:
            return
        there = self.path.read()
        if there is None or self.token.encode() not in there[0]:
            raise LeaseLost(f"{self.path}: another process has taken over")


NOT_LEASED = Claim()


@dataclass(kw_only=True)
class Lease:
    """A lock by its name in a bucket; a context manager. timeout_s: how long to wait for it, negative for ever."""

    path: BucketPath
    timeout_s: float = -1.0

    def __post_init__(self) -> None:
        self._token, self._count, self._version = uuid.uuid4().hex, 0, ""
        self._lost, self._given_back = False, threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as is known."""
        return bool(self._version) and not self._lost

    @property
    def claim(self) -> Claim:
        """What shows that it is held, as it is now."""
        return Claim(path=self.path, token=self._token)

    def __enter__(self) -> Self:
        self._token, self._lost = uuid.uuid4().hex, False
        self._given_back.clear()
        self._take()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"lease of {self.path}")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._given_back.set()
        if self._thread is not None:
            self._thread.join()
        if self.held:
            try:
                self.path.put_if(self._content(free=True), self._version)
            except StorageError as unreachable:  # it then ends by itself
                log.warning("%s", unreachable)
        self._version = ""

    def _take(self) -> None:
        """Wait until it is ours. Raise TimeoutError."""
        began, seen, seen_for_s, looked = time.monotonic(), "", 0.0, time.monotonic()
        while True:
            there = self.path.read()
            now = time.monotonic()
            if there is None:
                version = self._put(None)
            else:
                content, seen_now = there
                same = seen_now == seen
                seen_for_s = seen_for_s + min(now - looked, 2 * _LOOK_S) if same else 0.0
                seen, looked = seen_now, now
                version = self._put(seen) if _free(content) or seen_for_s >= LEASE_S else ""
            if version:
                self._version = version
                return
            if 0 <= self.timeout_s < time.monotonic() - began:
                raise TimeoutError(f"{self.path} is held by another process")
            time.sleep(_LOOK_S if there is not None else 0.0)

    def _put(self, version: str | None) -> str:
        return self.path.put_if(self._content(), version) or ""

    def _renew(self) -> None:
        """Write it anew until it is given back, or another process has it."""
        while not self._given_back.wait(LEASE_S / _RENEWALS):
            try:
                version = self._put(self._version) or self._own_version()
            except StorageError as error:
                log.warning("%s", error)
                continue
            if not version:
                self._lost = True
                log.warning(
                    "%s was taken over by another process, as it was not renewed for %.0f s", self.path, LEASE_S
                )
                return
            self._version = version

    def _own_version(self) -> str:
        """Return the version that is there if we wrote it, in a request that we had given up; else nothing."""
        there = self.path.read()
        return there[1] if there is not None and self._token.encode() in there[0] else ""

    def _content(self, *, free: bool = False) -> bytes:
        self._count += 1
        told: dict[str, Any] = {"token": self._token, "count": self._count, "free": free}
        return json.dumps(told | {"machine": machine(), "pid": os.getpid(), "began": _began(os.getpid())}).encode()


def _free(content: bytes) -> bool:
    """Say whether nobody has a lease: it was given back, or its process was one of this machine and is gone."""
    try:
        told = json.loads(content)
        if told["free"]:
            return True
        return told["machine"] == machine() and _began(told["pid"]) != told["began"]
    except (ValueError, KeyError, TypeError):
        return False  # who wrote this, is not known: it ends as every lease does


def _began(pid: int) -> int | None:
    """Return when a process of this machine began, in ticks since the machine did, which no setting of a clock changes.

    None: there is none, or it only waits to be buried.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # behind its name: state, ..., began
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if told[0] == b"Z" else int(told[19])


@cache
def machine() -> str:
    """Return what names this machine since it started, and within it the container whose process ids these are."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex  # of this process alone
