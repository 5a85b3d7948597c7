"""The stages called in process: what a request costs before any server touches it.

    echo '{"batch": 16, "seconds": 3}' | python -m shortlist.serving.benchmark.limit BUNDLE MESSAGES

Commands and answers are lines of JSON, as with `load`. Two of these side by side stand for two cores at work.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shortlist.bundle import Bundle
from shortlist.cascade import Cascade
from shortlist.serving.benchmark.workload import make_requests
from shortlist.types import Slate

PROBED, DEEP, CHUNK = 64, 500, 50_000  # people whose recall is measured, how deep, items scored at a time


class Limit:
    """A cascade and the benchmark's requests."""

    def __init__(self, bundle: Path, requests: int) -> None:
        self.cascade = Cascade.load(bundle, verify=False)
        self.cascade.warm_up()
        self.requests = make_requests(bundle, requests)
        self.spare: float = Bundle.open(bundle, verify=False).document("retrieve").get("spare", 1)

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """`slates` to compare, `recall` of the index, or so many `seconds` in batches of `batch`."""
        if count := command.get("slates"):
            return {"slates": self._slates(count)}
        if "recall" in command:
            return self._recall()
        return self._run(command["batch"], command["seconds"], command["seed"])

    def _slates(self, count: int) -> list[list[str]]:
        """One request at a time: batches must not change an answer."""
        answers = [self.cascade.recommend([request])[0] for request in self.requests[:count]]
        return [[i.decode() for i in a.item_ids] if isinstance(a, Slate) else [str(a)] for a in answers]

    def _run(self, batch: int, seconds: float, seed: int) -> dict[str, Any]:
        batches = [self.requests[i : i + batch] for i in range(0, len(self.requests) - batch + 1, batch)]
        done, i = 0, seed
        cpu, start = time.process_time(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.cascade.recommend(batches[i % len(batches)])
            i, done = i + 1, done + batch
        return {"requests": done, "cpu": time.process_time() - cpu, "seconds": time.perf_counter() - start}

    def _recall(self) -> dict[str, Any]:
        """Share of the exact nearest 500 that are among the index's proposals, over people of the workload."""
        vectors = self.cascade.users.read(self.requests[:PROBED]).vectors
        found = self.cascade.retrieve.index.search(vectors, min(len(self.cascade.catalog), round(self.spare * DEEP)))
        exact = exact_search(vectors, self.cascade.retrieve.vectors, DEEP)
        shares = [len(np.intersect1d(f, e)) / len(e) for f, e in zip(found, exact, strict=True)]
        return {"recall@500": float(np.mean(shares)), "items": len(self.cascade.catalog)}


def exact_search(vectors: Any, items: Any, k: int, chunk: int = CHUNK) -> Any:
    """Rows of the `k` largest inner products of each of `vectors` [B, D] with `items` [N, D], in no order: [B, k]."""
    k = min(k, len(items))
    best_scores, best_rows = np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
    for start in range(0, len(items), chunk):
        scores = vectors @ items[start : start + chunk].T
        rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        scores, rows = np.concatenate([best_scores, scores], axis=1), np.concatenate([best_rows, rows], axis=1)
        kept = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        best_scores, best_rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    return best_rows


def main() -> None:
    """Obey commands until standard input ends."""
    limit = Limit(Path(sys.argv[1]), int(sys.argv[2]))
    gc.freeze()
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(limit.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
