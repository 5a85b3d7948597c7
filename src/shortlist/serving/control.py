"""What the supervisor asks of a running Triton over gRPC: is it live, load a model, answer a canary.

Model control carries the key that the server was started with; callers without it are refused by Triton.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.errors import ServerError
from shortlist.serving.client import CHANNEL
from shortlist.serving.model_config import REPAIRS, config_json
from shortlist.serving.process import CONTROL_HEADER, Address
from shortlist.serving.tensors import CANARY, CASCADE
from shortlist.serving.tls import Tls, connection
from shortlist.serving.where import Where


class _Connection(triton.InferenceServerClient):  # type: ignore[misc]
    """tritonclient's own, quiet when a signal ends it half built."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


class Control:
    """A connection for one supervisor."""

    def __init__(self, address: Address, key: str, tls: Tls | None = None) -> None:
        self._client = _Connection(**connection(address.grpc, tls, CHANNEL))
        self._headers = {f"triton-grpc-protocol-{CONTROL_HEADER}": key}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def live(self, timeout: float = 2.0) -> bool:
        """Whether the server answers at all."""
        try:
            return bool(self._client.is_server_live(client_timeout=timeout))
        except (InferenceServerException, grpc.RpcError):
            return False

    def wait_until_live(self, still_running: Callable[[], bool], timeout: float) -> bool:
        """Wait for the first answer; False when `timeout` seconds pass or the process ends."""
        until = time.monotonic() + timeout
        while time.monotonic() < until and still_running():
            if self.live():
                return True
            time.sleep(0.05)
        return False

    def load(
        self,
        model_folder: Path,
        version: str,
        instances: int | None = None,
        timeout: float = 600.0,
        where: Where | None = None,
        repairs: Mapping[str, int] | None = None,
    ) -> None:
        """Load a version of a model beside the one that runs, or load it anew; then switch, and unload the other.

        `instances` stands in place of its configured number, and `where` of its device; `repairs` is what its metrics
        say of the supervisor. Raises ServerError with Triton's reason.
        """
        path = model_folder / "config.pbtxt"
        config = json.loads(config_json(path, instances, *((where.wanted, where.device) if where else ())))
        config.setdefault("parameters", {})[REPAIRS] = {"string_value": json.dumps(repairs or {})}
        config["version_policy"] = {"specific": {"versions": [version]}}
        try:
            self._client.load_model(
                model_folder.name,
                headers=self._headers,
                config=json.dumps(config),
                client_timeout=timeout,
            )
        except InferenceServerException as error:
            reason = str(error.message()).partition("\n\nAt:")[0]  # without the stack of the Python backend
            raise ServerError(f"model {model_folder.name!r} does not load: {reason}") from error

    def unload(self, model: str) -> None:
        """Unload a model; Triton finishes in the background."""
        try:
            self._client.unload_model(model, headers=self._headers, client_timeout=10.0)
        except InferenceServerException as error:
            raise ServerError(f"model {model!r} does not unload: {error.message()}") from error

    def answered(self, model: str) -> int | None:
        """How many requests `model` has answered so far, well or badly; None when nobody can say."""
        try:
            statistics = self._client.get_inference_statistics(model, client_timeout=2.0)
        except (InferenceServerException, grpc.RpcError):
            return None
        counts = (s.inference_stats for s in statistics.model_stats)
        return sum(int(c.success.count + c.fail.count) for c in counts)

    def canary(self, timeout: float) -> str | None:
        """Ask `cascade` for an anonymous person's slate: None when it answers, else the gRPC status it failed with."""
        inputs = [triton.InferInput(t.name, [1, 1] if t.shape == (1,) else [1, 0], t.dtype) for t in CASCADE.inputs]
        for tensor in inputs:
            tensor.set_data_from_numpy(np.full(tensor.shape(), b"", np.object_))
        try:
            self._client.infer(CASCADE.name, inputs, request_id=CANARY, client_timeout=timeout, parameters={"k": 1})
        except InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode.")
        return None
