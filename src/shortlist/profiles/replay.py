"""The user side of held-out examples, as it was at that moment: what evaluation feeds to the deployed stages."""

from __future__ import annotations

import numpy as np

from shortlist.data.features import Features
from shortlist.data.splits import Examples
from shortlist.stages.users import Users
from shortlist.types import UserBatch


def user_batch(users: Users, features: Features, examples: Examples, start: int, stop: int) -> UserBatch:
    """UserBatch of examples start:stop: history, features and context before the target, encoded by the bundle."""
    stop = min(stop, len(examples))
    rows, lengths = examples.histories(start, stop, users.length)
    history = rows[:, : max(1, int(lengths.max(initial=0)))].astype(np.int32)
    side = features.side(examples, start, stop)
    offsets, log = examples.log.offsets[examples.users[start:stop]], examples.log
    whole = [log.rows[o : o + p] for o, p in zip(offsets, examples.positions[start:stop], strict=True)]
    contexts = examples.contexts(start, stop)
    return UserBatch(
        history,
        lengths,
        side,
        users.encode(history, lengths, side),
        tuple(w if users.mask_seen else w[:0] for w in whole),
        users.popularity.segments([{name: c[i] for name, c in contexts.items()} for i in range(stop - start)]),
    )
