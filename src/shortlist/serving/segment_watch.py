"""Has a cascade use the lists of segments that lie in a store, for as long as they are there and fit its bundle.

A thread looks now and then; the request's path only finds another object in `Cascade.segments`. Lists are made by
`shortlist.serving.precompute`.
"""

from __future__ import annotations

import threading

import numpy as np

from shortlist.cascade import Cascade
from shortlist.deadlines import SEGMENT as SEGMENT_STAGE
from shortlist.profiles.precomputed import SEGMENT, Segment, floats, read_segment
from shortlist.profiles.store import ProfileStore, StoreError
from shortlist.stages.segments import SegmentLists

EVERY = 10.0  # seconds between two looks


class SegmentWatch:
    """Looks for segments every few seconds once started; until then, `look` does so once."""

    def __init__(self, cascade: Cascade, url: str) -> None:
        """Raises ConfigError for a bad URL."""
        self._cascade, self._store = cascade, ProfileStore(url)
        self._made_ms = 0  # of those that are used
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shortlist-segments", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._store.close()

    def look(self) -> None:
        """Use what is there; a store that does not answer changes nothing."""
        try:
            segments = self._read()
        except StoreError:
            return
        if not segments:
            self._cascade.segments, self._made_ms = None, 0
            self._cascade.costs.forget(SEGMENT_STAGE)
        elif segments[0].made_ms != self._made_ms:
            lists = self._lists(segments)
            self._cascade.costs.like(SEGMENT_STAGE, "retrieve")
            self._cascade.segments, self._made_ms = lists, segments[0].made_ms

    def _read(self) -> list[Segment]:
        """All segments of the cascade's bundle; none where one is missing, or of another bundle."""
        first = read_segment(self._store.command("GET", SEGMENT + b"0"))
        if first is None or first.bundle != self._cascade.version:
            return []
        keys = [SEGMENT + str(i).encode() for i in range(first.of)]
        found = [read_segment(blob) for blob in self._store.command("MGET", *keys)]
        whole = [s for s in found if s and (s.bundle, s.made_ms, s.of) == (first.bundle, first.made_ms, first.of)]
        return whole if len(whole) == first.of and all(self._fits(s, len(first.items)) for s in whole) else []

    def _fits(self, segment: Segment, length: int) -> bool:
        """Whether the bundle can use a segment with a list of `length`; any other, or an unknown item, is damage."""
        width, rows = self._cascade.retrieve.vectors.shape[1], self._cascade.catalog.ids.rows(segment.items)
        return len(segment.centroid) == 4 * width and len(rows) == length and bool((rows >= 0).all())

    def _lists(self, segments: list[Segment]) -> SegmentLists:
        rows = np.stack([self._cascade.catalog.ids.rows(segment.items) for segment in segments])
        centroids = np.stack([floats(segment.centroid) for segment in segments])
        return SegmentLists(self._cascade.popularity, self._cascade.retrieve.vectors, centroids, rows)

    def _run(self) -> None:
        self.look()
        while not self._stopped.wait(EVERY):
            self.look()
