"""The cascade on LitServe: one process takes requests and hands them to two workers, which answer in batches.

The same binary body as the FastAPI peer's.

    python -m shortlist.serving.benchmark.peers.lit BUNDLE PORT

LitServe reads annotations as they stand, so this module does not postpone them.
"""

import gc
import sys
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Response
from litserve import LitAPI, LitServer

from shortlist.cascade import Cascade
from shortlist.errors import ShortlistError
from shortlist.serving.benchmark.peers.message import decode, encode_slate
from shortlist.types import Request, Slate

WORKERS, BATCH = 2, 16


class CascadeApi(LitAPI):  # type: ignore[misc]
    """One worker."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(max_batch_size=BATCH, api_path="/recommend")
        self._bundle = bundle

    def setup(self, device: str) -> None:
        """Load the bundle."""
        self._cascade = Cascade.load(self._bundle, verify=False)
        self._cascade.warm_up()
        gc.freeze()

    def decode_request(self, request: Annotated[bytes, Body()]) -> Request:
        """From the body."""
        return decode(request)

    def batch(self, inputs: list[Request]) -> list[Request]:
        """Requests stay a list."""
        return inputs

    def predict(self, x: list[Request]) -> list[Slate | ShortlistError]:
        """All stages."""
        return self._cascade.recommend(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Answers are a list."""
        return output

    def encode_response(self, output: Slate | ShortlistError) -> Response:
        """To the body."""
        if isinstance(output, ShortlistError):
            return Response(str(output), 400)
        return Response(encode_slate(output))


def main() -> None:
    """Serve until killed."""
    bundle, port = Path(sys.argv[1]), int(sys.argv[2])
    server = LitServer(
        CascadeApi(bundle), accelerator="cpu", workers_per_device=WORKERS, fast_queue=True, disable_openapi_url=True
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        timeout_keep_alive=3600,
        access_log=False,
    )


if __name__ == "__main__":
    main()
