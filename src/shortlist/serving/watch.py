"""How closely a supervisor looks, and how it goes on looking while it waits for a new version to load.

Loading takes seconds and happens within Triton. When it hangs there, or the server does, nobody else would notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watch:
    """How closely the supervisor looks, in seconds."""

    every: float = 0.25
    canary_every: float = 1.0
    canary_timeout: float = 2.0
    start_timeout: float = 60.0
    max_backoff: float = 30.0
    silence: float = 30.0  # while a new version loads


def load_beside(
    load: Callable[[], None], answers: Callable[[], bool], give_up: Callable[[], None], watch: Watch
) -> None:
    """Run `load`, which raises what goes wrong, and keep asking whether anything `answers`.

    When nothing did for `watch.silence`, `give_up` is called once, which has to make `load` end.
    """
    with ThreadPoolExecutor(1, "shortlist-load") as pool:
        loading = pool.submit(load)
        heard, given_up = time.monotonic(), False
        while not wait([loading], watch.canary_every).done:
            if answers():
                heard = time.monotonic()
            elif not given_up and time.monotonic() - heard > watch.silence:
                given_up = True
                give_up()
        loading.result()
