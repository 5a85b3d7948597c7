"""A small world with a law to learn: six groups of ten items; each user walks one group's ring, with some noise."""

import numpy as np
import pytest

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Split, make_split

GROUPS, SIZE, USERS, EVENTS = 6, 10, 120, 7


@pytest.fixture(scope="session")
def planted_log() -> InteractionLog:
    """Users walk from item to next item of their group; one event in ten is any item, and none repeats."""
    rng = np.random.default_rng(0)
    users, rows, times = [], [], []
    for user in range(USERS):
        group, place, had = user % GROUPS, int(rng.integers(SIZE)), set[int]()
        for event in range(EVENTS):
            noisy = rng.random() < 0.1
            row = int(rng.integers(GROUPS * SIZE)) if noisy else group * SIZE + (place + event) % SIZE
            if row in had:
                continue
            had.add(row)
            users.append(user)
            rows.append(row)
            times.append(1_000_000 + event * 10_000 + user * 7)
    return InteractionLog.from_arrays(
        np.array(users),
        np.array(rows),
        user_ids=[f"u{user}" for user in range(USERS)],
        item_ids=[f"i{row}" for row in range(GROUPS * SIZE)],
        timestamps=np.array(times),
    )


@pytest.fixture(scope="session")
def split(planted_log: InteractionLog) -> Split:
    return make_split(planted_log, "leave-one-out")


@pytest.fixture(scope="session")
def rolling(planted_log: InteractionLog) -> Split:
    return make_split(planted_log, "rolling")
