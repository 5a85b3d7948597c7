"""Profiles in Valkey or Redis: read in one round trip, committed with the log's offset in one atomic script.

What a blob holds is for `layout`, which events it includes for the consumer; how a request lives with a store that does
not answer is for `live`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shortlist.errors import ConfigError, MissingExtraError, ShortlistError
from shortlist.profiles.state import RETENTION_S

PROFILE = b"sl:p:"  # + user id: the blob
OFFSET = "sl:offset:"  # + topic:partition: the next offset to apply
CHANGED = b"sl:changed:"  # + user id: the channel that is told when that user's profile changed
TTL_S = RETENTION_S + 7 * 24 * 3600  # later than the silence after which `state` starts anew: expiry changes nothing

_SCHEMES = {"redis": "valkey", "rediss": "valkeys", "valkey": "valkey", "valkeys": "valkeys", "unix": "unix"}
# KEYS: offset, profiles. ARGV: expected offset or '', next offset, ttl, what channels begin with, blobs. Effects are
# replicated and written to the append-only file as one transaction.
_COMMIT = f"""
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 3], 'EX', ARGV[3])
  local user = string.sub(KEYS[i], {len(PROFILE) + 1})
  redis.call('PUBLISH', ARGV[4] .. user, user)
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class StoreError(ShortlistError):
    """The store does not answer, or refuses a command: names its address and why."""


class ProfileStore:
    """One connection to a store, for one thread. It is opened by the first call and again after a failure.

    URL: valkey://[user:password@]host:port/db, valkeys:// for TLS (?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…),
    redis:// and rediss:// alike, or unix:///path/of/socket?db=0.
    """

    def __init__(self, url: str, timeout_s: float = 1.0, ttl_s: int = TTL_S) -> None:
        """Wait `timeout_s` for an answer. Raises ConfigError where `url` is none of these."""
        self.address = url.rpartition("@")[2].partition("?")[0]  # without the password
        self.openings = 0  # of the connection: one more, and what answers may be another server
        self._connection = connection_to(url, timeout_s)
        self._ttl_s = ttl_s
        self._is_open = False

    def read(self, user_ids: Sequence[bytes]) -> list[bytes | None]:
        """Blobs of `user_ids` in order, None where there is none; one round trip. Raises StoreError."""
        if not user_ids:
            return []
        blobs: list[bytes | None] = self.command("MGET", *[PROFILE + user for user in user_ids])
        return blobs

    def commit(
        self, topic: str, partition: int, expected: int | None, next_: int, profiles: Mapping[bytes, bytes]
    ) -> bool:
        """Write `profiles` by user id and the partition's next offset, all at once, and tell CHANGED.

        False, and nothing is written, when the stored offset is not `expected` (None: there is none): somebody else
        consumes the partition, or the store lost its memory. After a StoreError either may be true: ask `offset`.
        """
        keys = [f"{OFFSET}{topic}:{partition}".encode(), *[PROFILE + user for user in profiles]]
        told = "" if expected is None else expected
        arguments = (told, next_, self._ttl_s, CHANGED, *profiles.values())
        return bool(self.command("EVAL", _COMMIT, len(keys), *keys, *arguments))

    def offset(self, topic: str, partition: int) -> int | None:
        """The next offset of a partition, None where the store knows nothing of it. Raises StoreError."""
        held = self.command("GET", f"{OFFSET}{topic}:{partition}")
        return None if held is None else int(held)

    def users(self) -> list[bytes]:
        """Ids of all users with a profile, in any order: a scan of the whole store."""
        found: set[bytes] = set()
        cursor: bytes | int = 0
        while True:
            cursor, keys = self.command("SCAN", cursor, "MATCH", PROFILE + b"*", "COUNT", 1000)
            found.update(key[len(PROFILE) :] for key in keys)
            if int(cursor) == 0:
                return list(found)

    def command(self, *words: Any) -> Any:
        """The answer to any command, in one round trip. Raises StoreError."""
        from valkey.exceptions import ValkeyError

        try:
            answer = self._ask(words)
        except (ValkeyError, OSError) as error:
            self._disconnect()
            raise StoreError(f"store {self.address}: {error or type(error).__name__}; is it running?") from error
        self.openings += not self._is_open
        self._is_open = True
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._disconnect()

    def _ask(self, words: Sequence[Any]) -> Any:
        """A connection that was closed meanwhile, by a store that restarted, is opened again."""
        from valkey.exceptions import ConnectionError

        try:
            self._connection.send_command(*words)
            return self._connection.read_response()
        except ConnectionError:
            if not self._is_open:
                raise
        self._disconnect()
        self._connection.send_command(*words)
        return self._connection.read_response()

    def _disconnect(self) -> None:
        self._is_open = False
        self._connection.disconnect()


def connection_to(url: str, timeout_s: float) -> Any:
    try:
        import valkey
    except ImportError as error:
        raise MissingExtraError("valkey", "stream") from error
    scheme, _, rest = url.partition("://")
    shown = url.rpartition("@")[2]  # without the password
    if scheme not in _SCHEMES or not rest:
        raise ConfigError(f"profile store {shown!r}: a URL valkey://host:port/db is allowed; or {', '.join(_SCHEMES)}")
    try:
        make: Any = valkey.ConnectionPool.from_url
        pool = make(
            f"{_SCHEMES[scheme]}://{rest}",
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            lib_name=None,  # each would be a round trip more
            lib_version=None,
        )
        return pool.make_connection()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"profile store {shown!r}: {error}") from error
