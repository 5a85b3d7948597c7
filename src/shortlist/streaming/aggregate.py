"""What a log of events adds up to, as plain functions: profiles, counts by window and item, CTR and popularity.

They define the meaning; `job` runs the same functions on many machines. Counts are whole numbers, so that they add up
to the same in any order; what is not whole is computed from them last. How one event moves a profile is
`shortlist.profiles.state`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shortlist.events.schema import Event, EventError
from shortlist.events.transport import Record
from shortlist.profiles.admission import admit
from shortlist.profiles.state import POSITIVE, TYPES, Facts, Profile, step, weight

COUNTED = (*TYPES, "positive")  # columns of a window: events by type, and those that say the user wanted the item
WIDTH_S = 3600
POPULARITY_HALF_LIFE_S = 7 * 24 * 3600


class Outcome(NamedTuple):
    """What one record came to: an event that was applied, or the reason why not."""

    record: Record
    event: Event | None
    refusal: str | None  # "late", "duplicate", or what is wrong with the document


class Window(NamedTuple):
    """Where an event counts."""

    start_ms: int
    item_id: str


@dataclass
class Aggregates:
    """Everything that a log adds up to."""

    profiles: dict[bytes, Profile | None] = field(default_factory=dict)
    windows: dict[Window, Counter[str]] = field(default_factory=dict)  # counts by COUNTED
    refused: list[Outcome] = field(default_factory=list)


def aggregate(records: Iterable[Record], facts: Facts, width_s: int = WIDTH_S) -> Aggregates:
    """The whole log in one process, each partition in the order of its offsets."""
    found = Aggregates()
    for outcome in advance(found.profiles, records, facts):
        if outcome.event is None or outcome.refusal is not None:
            found.refused.append(outcome)
        else:
            found.windows.setdefault(window_of(outcome.event, width_s), Counter()).update(counted(outcome.event))
    return found


def advance(
    profiles: MutableMapping[bytes, Profile | None], records: Iterable[Record], facts: Facts
) -> Iterator[Outcome]:
    """Move `profiles` on by each of `records`, in place, and say what each came to."""
    for record in records:
        try:
            event = admit(record)
        except EventError as error:
            yield Outcome(record, None, str(error))
            continue
        user = event.user_id.encode()
        profile, refusal = step(profiles.get(user), event, facts)
        if refusal is None:
            profiles[user] = profile
        yield Outcome(record, event, refusal)


def window_of(event: Event, width_s: int) -> Window:
    """The window of its item that an event falls into by its own time: [start, start + width)."""
    return Window(event.timestamp_ms - event.timestamp_ms % (width_s * 1000), event.item_id)


def counted(event: Event) -> list[str]:
    """The columns of COUNTED that an event adds one to."""
    return [event.type, "positive"] if weight(event.type, event.value) >= POSITIVE else [event.type]


def click_through(clicks: int, views: int) -> float | None:
    """Clicks for each view; above 1 where clicks come without their views, None without views."""
    return clicks / views if views else None


def popularity(positives: Iterable[tuple[int, int]], now_ms: int, half_life_s: int = POPULARITY_HALF_LIFE_S) -> float:
    """Positive events of an item, (window's start_ms, count) each; one of age `half_life_s` counts half."""
    half_lives = ((count, (now_ms - start_ms) / (half_life_s * 1000)) for start_ms, count in sorted(positives))
    return float(sum(count * 2.0**-age for count, age in half_lives))
