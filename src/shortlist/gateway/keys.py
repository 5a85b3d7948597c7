"""API keys: how one is made, what a file of them says, and whose a given key is.

The file holds no key, only SHA-256 hashes of keys (which are 32 random bytes, so that a hash cannot be guessed back).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from shortlist.errors import ConfigError

READ, TRACK, ADMIN = "read", "track", "admin"
ROLES = {READ: "slates and profiles", TRACK: "sending events", ADMIN: "all of it, and metrics"}
_HASH = re.compile("[0-9a-f]{64}")
_LOOK_EVERY = 1.0  # seconds between two looks at the file


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the key's name and role."""

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Whether the caller may do what `role` may."""
        return self.role in (role, ADMIN)


EVERYBODY = Caller("", ADMIN)  # without a file of keys


class Keys:
    """The keys of a file, read again when it changes: a line taken out shuts its key out within seconds."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when the file cannot be read or has a line that is no key."""
        self._path = path
        self._looked, self._stamp = time.monotonic(), _stamp(path)
        self._callers = _read(path)

    def whose(self, key: str) -> Caller | None:
        """Whose `key` is. Compares with every hash, each in constant time."""
        self._look()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _look(self) -> None:
        """Read the file again if it is another one. One that is gone or broken lets nobody in."""
        if time.monotonic() < self._looked + _LOOK_EVERY:
            return
        self._looked, stamp = time.monotonic(), _stamp(self._path)
        if stamp != self._stamp:
            self._stamp, self._callers = stamp, []
            with contextlib.suppress(ConfigError):
                self._callers = _read(self._path)


def make_key(role: str, path: Path, name: str = "") -> str:
    """A new key of that role, whose hash is added to the file at `path`. Only its holder ever has the key itself.

    Raises ConfigError for a role that there is not, or a file that holds something else.
    """
    if role not in ROLES:
        raise ConfigError(f"--make-key = {role!r}: {', '.join(ROLES)} are allowed")
    known = [caller.name for _, caller in _read(path)] if path.exists() else []
    name = name or f"{role}-{len(known) + 1}"
    if name in known:
        raise ConfigError(f"--key-name = {name!r}: {path} has a key of this name; choose another, or take its line out")
    key = f"sl-{role}-{secrets.token_urlsafe(32)}"
    line = json.dumps({"name": name, "role": role, "sha256": hashlib.sha256(key.encode()).hexdigest()})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "a", encoding="utf-8") as file:
        file.write(line + "\n" if _ends_whole(path) else f"\n{line}\n")
    return key


def _ends_whole(path: Path) -> bool:
    """Whether the last line has its end: editors leave it out, and two keys on one line would shut everybody out."""
    return path.read_bytes()[-1:] in (b"", b"\n")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> list[tuple[bytes, Caller]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys = {path}: cannot be read ({error})") from error
    return [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(path: Path, number: int, line: str) -> tuple[bytes, Caller]:
    try:
        found = json.loads(line)
        name, role, digest = found["name"], found["role"], found["sha256"]
        if isinstance(name, str) and role in ROLES and _HASH.fullmatch(digest):
            return bytes.fromhex(digest), Caller(name, role)
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f'--keys = {path}, line {number}: {{"name": …, "role": {"|".join(ROLES)}, "sha256": 64 hex digits}} is '
        "allowed; make one with `shortlist gateway --make-key ROLE --keys FILE`"
    )
