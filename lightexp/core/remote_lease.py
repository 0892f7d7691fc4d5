"""Leases of store keys: which host makes an entry of a remote store. They are advisory, and no clock is compared."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import suppress
from typing import Protocol

from lightexp.core.errors import LightexpError
from lightexp.core.json_text import encode_json
from lightexp.core.object_storage import ObjectStorage

LEASES = "leases"


class Leases(Protocol):
    """Leases of store keys."""

    def acquire(self, key: str) -> bool:
        """Acquire the lease of a key without waiting; return False if a living process has it."""

    def release(self, key: str) -> None:
        """Release the lease of a key, if this process has it."""

    def expire(self, key: str) -> None:
        """Give a lease up without a request to the remote store, which has just failed."""


class RemoteLeases(Leases):
    """Leases as objects in the remote store: those that this process holds, and those of others that it has seen.

    The holder of a lease writes a new number into it from time to time. A lease that stays as it is for `expiry_s`
    seconds of the observer's own clock belongs to a dead process, and is taken over. Two hosts can then hold a lease in
    rare cases; both make the entry, and one result is kept.
    """

    def __init__(self, storage: ObjectStorage, expiry_s: float = 60.0) -> None:
        """Hold nothing yet.

        Args:
            storage: The remote store's objects.
            expiry_s: Seconds without a new number after which a lease is dead.
        """
        self._storage, self._expiry_s = storage, expiry_s
        self._owner = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._held: set[str] = set()
        self._seen: dict[str, tuple[bytes, float]] = {}  # of others: the content, and when it was first seen
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None

    def acquire(self, key: str) -> bool:
        """See `Leases.acquire`."""
        if key in self._held:
            return True
        name = f"{LEASES}/{key}"
        content = self._make_content(0)
        try:
            self._storage.write(name, content, create=True)
        except FileExistsError:
            return self._take_over(key, content)
        self._hold(key)
        return True

    def _take_over(self, key: str, content: bytes) -> bool:
        """Acquire the lease of a dead process, or one that this process has written without getting an answer."""
        name = f"{LEASES}/{key}"
        with suppress(FileNotFoundError, FileExistsError):  # another process has just released or acquired it
            existing = self._storage.read(name)
            if not self._is_own(existing):
                if not self._is_dead(key, existing):
                    return False
                self._storage.remove(name)
                self._storage.write(name, content, create=True)
            self._hold(key)
        return key in self._held

    def release(self, key: str) -> None:
        """See `Leases.release`; if the storage does not answer, the lease expires."""
        with self._lock:
            if key not in self._held:
                return
            self._held.discard(key)
            with suppress(LightexpError, FileNotFoundError):
                if self._is_own(self._storage.read(f"{LEASES}/{key}")):
                    self._storage.remove(f"{LEASES}/{key}")

    def expire(self, key: str) -> None:
        """See `Leases.expire`."""
        with self._lock:
            self._held.discard(key)

    def _is_dead(self, key: str, content: bytes) -> bool:
        """Check whether a lease has had the same content for long enough."""
        now = time.monotonic()
        previous, since = self._seen.get(key, (None, now))
        if content != previous:
            self._seen[key] = content, now
            return False
        return now - since >= self._expiry_s

    def _hold(self, key: str) -> None:
        with self._lock:
            self._held.add(key)
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew_forever, daemon=True)
                self._renewer.start()

    def _renew_forever(self) -> None:
        number = 0
        while True:
            time.sleep(self._expiry_s / 3)
            number += 1
            for key in list(self._held):
                with suppress(LightexpError, FileNotFoundError):  # the next turn tries again
                    self._renew(key, self._make_content(number))

    def _renew(self, key: str, content: bytes) -> None:
        """Write a new number into a lease that is still this process's."""
        with self._lock:
            name = f"{LEASES}/{key}"
            if key in self._held and self._is_own(self._storage.read(name)):
                self._storage.write(name, content)

    def _is_own(self, content: bytes) -> bool:
        """Check whether this process has written a lease; its number may be a later one, if an answer was lost."""
        return encode_json(self._owner).encode() in content

    def _make_content(self, number: int) -> bytes:
        return encode_json({"owner": self._owner, "number": number}).encode()
