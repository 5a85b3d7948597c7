"""The server side of the Triton model `cascade`: requests in, slates out. Runs inside Triton's Python stub.

The whole batch of one `execute` goes through the cascade together; a bad request gets its own error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from shortlist.cascade import Cascade
from shortlist.devices import choose_device
from shortlist.errors import DeadlineError, RequestError, ShortlistError
from shortlist.serving.guard import answer_each
from shortlist.serving.metrics import Flusher, Meter
from shortlist.serving.model_config import DEVICE, ENGINES, placement
from shortlist.serving.parse import field_of, parse_request
from shortlist.serving.tensors import (
    CANARY,
    DEADLINE,
    INPUTS,
    ITEM_ID,
    PROPENSITY,
    SCORE,
    STATUS,
    TRACE,
    Tensor,
)
from shortlist.types import Request, Slate


class CascadeModel:
    """Triton's `TritonPythonModel` for all four stages in one instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up the bundle that lies beside model.py, on the device that the configuration names."""
        bundle, wanted = bundle_folder(args), wanted_device(args)
        device = choose_device(wanted, bundle.parent / ENGINES, placement(args))
        if device.note:
            pb_utils.Logger.log_warn(f"cascade runs on the CPU: {device.note}")
        self.cascade = Cascade.load(bundle, device=device)
        self.gauge = device_gauge(device.name, wanted)
        self.cascade.warm_up()
        self.meter = Meter()
        self.flusher = Flusher(self.meter, counter_family)
        self._by_popularity = 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        counted = not (len(requests) == 1 and requests[0].request_id() == CANARY)
        self.cascade.observer = self._observe if counted else None
        parsed = [read(request) for request in requests]
        valid = [request for request in parsed if isinstance(request, Request)]
        answers = iter(answer_each(self.cascade.recommend, valid, pb_utils.Logger.log_error))
        outcomes = [next(answers) if isinstance(request, Request) else request for request in parsed]
        if counted:
            self._count(outcomes)
        return [respond(outcome) for outcome in outcomes]

    def finalize(self) -> None:
        """Hand over the last counts."""
        self.flusher.stop()

    def _observe(self, stage: str, seconds: float, items_in: int, items_out: int) -> None:
        self.meter.observe(stage, seconds, items_in, items_out)
        if stage == "popularity":
            self._by_popularity += items_in // self.cascade.popularity.rows.shape[1]

    def _count(self, outcomes: Sequence[Slate | ShortlistError]) -> None:
        by_popularity, self._by_popularity = self._by_popularity, 0
        self.meter.answered(Counter(o.status for o in outcomes if isinstance(o, Slate)), by_popularity)
        for outcome in outcomes:
            if isinstance(outcome, DeadlineError):
                self.meter.count("shortlist_errors_total", field=DEADLINE.name)
            elif isinstance(outcome, RequestError):
                self.meter.count("shortlist_errors_total", field=field_of(outcome))


def bundle_folder(args: dict[str, str]) -> Path:
    """Where the bundle of this version lies: beside model.py."""
    return Path(args["model_repository"]) / args["model_version"] / "bundle"


def wanted_device(args: dict[str, str]) -> Any:
    """What the model's configuration says to run on: cpu, gpu or auto."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return parameters.get(DEVICE, {}).get("string_value", "cpu")


def device_gauge(device: str, wanted: str) -> Any:
    """A gauge on Triton's metrics endpoint that tells what was wanted, and what it came to."""
    family = pb_utils.MetricFamily(
        name="shortlist_device", description="1 for the device that cascade runs on", kind=pb_utils.MetricFamily.GAUGE
    )
    metric = family.Metric(labels={"device": device, "wanted": wanted})
    metric.set(1)
    return family, metric  # both end with their last reference


def counter_family(name: str, text: str) -> Any:
    """A family of counters on Triton's metrics endpoint."""
    return pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.COUNTER)


def read(request: Any) -> Request | RequestError:
    """The parsed request, or the error to answer it with."""
    user_id, history, exclude = (tensor_of(request, spec) for spec in INPUTS)
    try:
        return parse_request(user_id, history, exclude, parameters_of(request))
    except RequestError as error:
        return error


def tensor_of(request: Any, spec: Tensor) -> Any:
    """An input as a NumPy array, its batch dimension first."""
    return pb_utils.get_input_tensor_by_name(request, spec.name).as_numpy()


def parameters_of(request: Any) -> str:
    """The request's parameters, a JSON object."""
    return str(request.parameters())


def respond(outcome: Slate | ShortlistError) -> Any:
    """The Triton response of one slate or error."""
    return pb_utils.InferenceResponse(slate_tensors(outcome)) if isinstance(outcome, Slate) else error_response(outcome)


def error_response(error: ShortlistError) -> Any:
    """A response that carries the error and a gRPC code for it."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), _code(error)))


def slate_tensors(slate: Slate) -> list[Any]:
    """The output tensors, each with a leading batch dimension of 1."""
    trace = b"" if slate.trace is None else json.dumps(slate.trace).encode()
    return [
        id_tensor(ITEM_ID, slate.item_ids),
        pb_utils.Tensor(SCORE.name, slate.scores[None]),
        pb_utils.Tensor(PROPENSITY.name, slate.propensities[None]),
        id_tensor(STATUS, (slate.status.encode(),)),
        id_tensor(TRACE, (trace,)),
    ]


def id_tensor(spec: Tensor, values: Sequence[bytes]) -> Any:
    """A BYTES output [1, len(values)]."""
    tensor = np.empty((1, len(values)), np.object_)
    tensor[0, :] = values
    return pb_utils.Tensor(spec.name, tensor)


def _code(error: ShortlistError) -> Any:
    """A passed deadline is CANCELLED, which no gRPC retry policy repeats."""
    codes = pb_utils.TritonError
    if isinstance(error, DeadlineError):
        return codes.CANCELLED
    return codes.INVALID_ARG if isinstance(error, RequestError) else codes.INTERNAL
