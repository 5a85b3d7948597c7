"""What is on offer, as the store keeps it: items taken off, items brought back, new items that no bundle knows yet.

Two collections hold the state (`sl:items:removed`, `sl:items:added`), and the stream `sl:items` tells whoever follows
it what changes; one script writes both, so that they agree. A follower reads the state once, then the stream, and the
state again where the stream has gone on without it. Entries that somebody else wrote, and wrong, are told and skipped.
What an instance makes of it is `shortlist.stages.assortment`'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

from shortlist.errors import DataError
from shortlist.profiles.store import ProfileStore, StoreError

TRENDING = "sl:trending"
STREAM, REMOVED, ADDED, COUNT = "sl:items", "sl:items:removed", "sl:items:added", "sl:items:changes"
MOST_ADDED = 10_000  # new items at a time; the next build takes them in
LONGEST_STREAM = 100_000  # changes kept for followers, about
LONGEST_ID = 256  # bytes
LARGEST_ITEM = 16_384  # bytes of an item's attributes
AT_ONCE = 500  # changes a script
FULL = "NO ROOM"

# One change after the other; what changes nothing is not told to followers.
_WRITE = """
local done = 0
for i = 1, #ARGV, 3 do
  local kind, id, item = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local changed = false
  if kind == 'remove' then
    changed = redis.call('SADD', KEYS[2], id) == 1
  elseif kind == 'restore' then
    changed = redis.call('SREM', KEYS[2], id) == 1
  elseif kind == 'forget' then
    changed = redis.call('SREM', KEYS[2], id) + redis.call('HDEL', KEYS[3], id) > 0
  else
    local known = redis.call('HGET', KEYS[3], id)
    if not known and redis.call('HLEN', KEYS[3]) >= MOST_ADDED then
      return redis.error_reply('NO ROOM')
    end
    local back = redis.call('SREM', KEYS[2], id) == 1
    changed = back or known ~= item
    if changed then redis.call('HSET', KEYS[3], id, item) end
  end
  if changed then
    done = done + 1
    local number = redis.call('INCR', KEYS[4])
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', LONGEST, '*', 'n', number, 'kind', kind, 'id', id, 'item', item)
  end
end
return done
""".replace("MOST_ADDED", str(MOST_ADDED)).replace("LONGEST", str(LONGEST_STREAM))
# The end of the stream, whoever wrote its last entry, and how many changes there were, of one moment.
_LAST = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {last and last[1] or '0-0', tonumber(redis.call('GET', KEYS[2]) or 0) or 0}
"""

Kind = Literal["remove", "restore", "add", "forget"]


class ItemChange(NamedTuple):
    """One item leaves the offer, comes back, is new, or is none of our business any more."""

    kind: Kind
    item_id: bytes
    attributes: Mapping[str, Any] | None = None  # of a new item, as in the training data


@dataclass(frozen=True)
class ItemState:
    """All that is not as the bundles say."""

    removed: frozenset[bytes]
    added: Mapping[bytes, Mapping[str, Any]]  # attributes of new items, which may be among the removed


class Place(NamedTuple):
    """How far a follower has come: an entry of the stream, and the number of its change."""

    entry: bytes
    number: int


OnBroken = Callable[[bytes, str], None]
"""Told of an entry that cannot be read and is skipped: the item's id, empty where it has none, and what is wrong."""


class MissedError(StoreError):
    """The stream has gone on, or begun anew, without its follower, who has to read the state again."""


class ItemStore:
    """The state of the offer behind a URL (`profiles.store` says which are allowed). One thread at a time."""

    def __init__(self, url: str, timeout_s: float = 5.0, on_broken: OnBroken = lambda *_: None) -> None:
        """An answer may take `timeout_s`. Raises ConfigError for an impossible URL."""
        self._store = ProfileStore(url, timeout_s)
        self._on_broken = on_broken
        self._timeout_s = timeout_s

    def remove(self, item_ids: Iterable[bytes]) -> int:
        """Take items out of every slate until they are restored; returns how many were not out yet."""
        return self.write(ItemChange("remove", i) for i in item_ids)

    def restore(self, item_ids: Iterable[bytes]) -> int:
        """Bring removed items back; returns how many there were."""
        return self.write(ItemChange("restore", i) for i in item_ids)

    def add(self, items: Mapping[bytes, Mapping[str, Any]]) -> int:
        """Offer new items, or items whose attributes have changed; returns how many of them are news.

        Raises DataError for attributes that are no JSON or too large, and beyond MOST_ADDED.
        """
        return self.write(ItemChange("add", i, attributes) for i, attributes in items.items())

    def forget(self, item_ids: Iterable[bytes]) -> int:
        """Drop what is kept of items: new ones are gone, removed ones are back; returns how many there were."""
        return self.write(ItemChange("forget", i) for i in item_ids)

    def write(self, changes: Iterable[ItemChange]) -> int:
        """Write changes in order, AT_ONCE at a time each atomically; returns how many changed something."""
        checked = iter([_checked(change) for change in changes])
        done = 0
        while part := list(islice(checked, AT_ONCE)):
            arguments = [field for change in part for field in change]
            done += self._run(arguments)
        return done

    def state(self) -> tuple[Place, ItemState]:
        """Everything as it is now, and the place in the stream from which to follow.

        Raises StoreError where the store began anew meanwhile: cursors of the one before skip items of this one.
        """
        place = self._last()  # first: a change in between is told twice, which does no harm
        openings = self._store.openings
        removed = frozenset(self._scan("SSCAN", REMOVED))
        pairs = list(self._scan("HSCAN", ADDED))
        if self._store.openings != openings:
            raise StoreError(f"store {self._store.address}: has begun anew while it was read")
        read = {i: self._attributes(ADDED, i, item) for i, item in zip(pairs[::2], pairs[1::2], strict=True)}
        return place, ItemState(removed, {i: attributes for i, attributes in read.items() if attributes is not None})

    def follow(self, place: Place, wait_s: float) -> tuple[Place, list[ItemChange]]:
        """What has changed since `place`, as soon as there is something, but after `wait_s` at the latest.

        Raises MissedError where the stream does not go on from there.
        """
        entries = self._after(place, min(wait_s, self._timeout_s / 2))  # well before the answer is overdue
        if not entries and self._last() != place:
            entries = self._after(place, 0)  # it has come in between, or the stream is another one
            if not entries:
                raise MissedError(f"store {self._store.address}: {STREAM} has begun anew")
        number, changes = place.number, list[ItemChange | None]()
        for entry, fields in entries:
            given = _number(fields)
            if given is None:
                self._on_broken(b"", f"{STREAM}, entry {entry.decode()}: it has no number `n`, so it is not ours")
                continue
            if given != number + 1:
                raise MissedError(f"store {self._store.address}: {STREAM} holds change {given} after {number}")
            number = given
            changes.append(self._change(entry, fields))
        end = entries[-1][0] if entries else place.entry
        return Place(end, number), [change for change in changes if change]

    def trends(self) -> list[dict[str, Any]]:
        """What the consumers have counted (`shortlist.events.trending`): a document for each partition of a log."""
        from shortlist.events.trending import readable

        return readable(self._store.command("HVALS", TRENDING))

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def _after(self, place: Place, wait_s: float) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries behind `place`, and their fields."""
        block = ("BLOCK", max(1, round(wait_s * 1e3))) if wait_s else ()
        found = self._store.command("XREAD", "COUNT", 10_000, *block, "STREAMS", STREAM, place.entry)
        return [(bytes(entry), _fields(pairs)) for _, entries in found or () for entry, pairs in entries]

    def _last(self) -> Place:
        entry, number = self._store.command("EVAL", _LAST, 2, STREAM, COUNT)
        return Place(entry, number)

    def _change(self, entry: bytes, fields: Mapping[bytes, bytes]) -> ItemChange | None:
        """What an entry says; None where it cannot be read."""
        kind: Any = fields.get(b"kind", b"").decode(errors="replace")
        item_id = fields.get(b"id", b"")
        if not item_id or kind not in get_args(Kind):
            kinds = ", ".join(get_args(Kind))
            told = f"kind = {kind[:80]!r}, id = {item_id[:80]!r}: an id and one of {kinds} are allowed"
            self._on_broken(item_id, f"{STREAM}, entry {entry.decode()}: {told}")
            return None
        if kind != "add":
            return ItemChange(kind, item_id)
        attributes = self._attributes(STREAM, item_id, fields.get(b"item", b""))
        return None if attributes is None else ItemChange(kind, item_id, attributes)

    def _attributes(self, where: str, item_id: bytes, item: bytes) -> Mapping[str, Any] | None:
        """What is known of a new item; None where that is no JSON object."""
        try:
            found = json.loads(item)
            why = "" if isinstance(found, dict) else f"it is a {type(found).__name__}"
        except (ValueError, RecursionError) as error:
            why = str(error)
        if why or not item_id:
            allowed = f"a JSON object is allowed ({why})" if why else "an id is allowed that is not empty"
            self._on_broken(item_id, f"{where}, item {item_id[:80]!r}: {allowed}")
            return None
        return dict(found)

    def _scan(self, command: str, key: str) -> Iterator[bytes]:
        cursor: Any = 0
        while True:
            cursor, part = self._store.command(command, key, cursor, "COUNT", 1000)
            yield from part
            if int(cursor) == 0:
                return

    def _run(self, arguments: Sequence[Any]) -> int:
        try:
            return int(self._store.command("EVAL", _WRITE, 4, STREAM, REMOVED, ADDED, COUNT, *arguments))
        except StoreError as error:
            if FULL not in str(error):
                raise
            raise DataError(
                f"store {self._store.address}: {MOST_ADDED} new items are in it already, the most there may be; deploy "
                "a bundle that has been trained with them, then `shortlist items forget --in BUNDLE`"
            ) from None


def _checked(change: ItemChange) -> tuple[str, bytes, bytes]:
    """The words of a change for the script. Raises DataError."""
    if not 1 <= len(change.item_id) <= LONGEST_ID:
        raise DataError(f"item id {change.item_id[:80]!r}: 1 to {LONGEST_ID} bytes are allowed")
    if change.kind != "add":
        return change.kind, change.item_id, b""
    try:
        item = json.dumps(change.attributes, allow_nan=False, sort_keys=True, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"item {change.item_id!r}: its attributes cannot be written as JSON ({error})") from None
    if not isinstance(change.attributes, Mapping) or len(item) > LARGEST_ITEM:
        raise DataError(f"item {change.item_id!r}: an object of at most {LARGEST_ITEM} bytes of JSON is allowed")
    return change.kind, change.item_id, item


def _number(fields: Mapping[bytes, bytes]) -> int | None:
    """The number of a change; None where it has none."""
    try:
        return int(fields[b"n"])
    except (KeyError, ValueError):
        return None


def _fields(pairs: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))
