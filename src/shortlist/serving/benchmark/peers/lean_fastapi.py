"""A FastAPI server that does what `cascade` does, with as little else as we could find.

uvloop and httptools, a plain route (no validation of FastAPI's own), MessagePack both ways, one cascade per worker. A
worker answers each request as it comes, or, with `--batch`, those together that came in while it was busy. Each
worker has its own port, over which the client spreads its connections evenly: no balancer could do better.

    python -m shortlist.serving.benchmark.peers.lean_fastapi BUNDLE PORT [--batch]
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

from shortlist import types
from shortlist.cascade import Cascade
from shortlist.errors import ShortlistError
from shortlist.serving.benchmark.peers.message import decode, encode_slate
from shortlist.serving.metrics import Meter
from shortlist.serving.tensors import MAX_BATCH
from shortlist.types import Slate


class Worker:
    """One cascade and the requests that wait for it."""

    def __init__(self, bundle: Path, batch: bool) -> None:
        self.cascade = Cascade.load(bundle, verify=False)
        self.cascade.warm_up()
        self.meter = Meter()
        self.cascade.observer = self.meter.observe
        self.batch = batch
        self._waiting: list[tuple[types.Request, asyncio.Future[Slate | ShortlistError]]] = []

    async def recommend(self, request: Request) -> Response:
        """POST /recommend."""
        try:
            asked = decode(await request.body())
        except ValueError as error:
            return Response(str(error), 400)
        answer = await self._together(asked) if self.batch else self._answer([asked])[0]
        if isinstance(answer, ShortlistError):
            return Response(str(answer), 400)
        return Response(encode_slate(answer))

    def _together(self, request: types.Request) -> asyncio.Future[Slate | ShortlistError]:
        """A promise of the answer, with all others that this turn of the event loop reads."""
        loop = asyncio.get_running_loop()
        promise: asyncio.Future[Slate | ShortlistError] = loop.create_future()
        if not self._waiting:
            loop.call_soon(loop.call_soon, self._flush)
        self._waiting.append((request, promise))
        return promise

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_BATCH):
            part = waiting[start : start + MAX_BATCH]
            for answer, (_, promise) in zip(self._answer([r for r, _ in part]), part, strict=True):
                if not promise.done():
                    promise.set_result(answer)

    def _answer(self, requests: list[types.Request]) -> list[Slate | ShortlistError]:
        answers = self.cascade.recommend(requests)
        self.meter.answered(Counter((a.status, a.share) for a in answers if isinstance(a, Slate)), 0)
        return answers


def make_app(bundle: Path, batch: bool) -> FastAPI:
    """The application of one worker."""
    worker = Worker(bundle, batch)
    app = FastAPI(openapi_url=None)
    app.add_route("/recommend", worker.recommend, methods=["POST"])
    gc.freeze()
    return app


def main() -> None:
    """Serve until killed."""
    bundle, port, *options = sys.argv[1:]
    uvicorn.run(
        make_app(Path(bundle), "--batch" in options),
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=3600,
    )


if __name__ == "__main__":
    main()
