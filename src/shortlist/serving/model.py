"""The server side of the Triton model `cascade`: requests in, slates out. Runs inside Triton's Python stub.

The whole batch of one `execute` goes through the cascade together; a bad request gets its own error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from shortlist.cascade import Cascade
from shortlist.deadlines import SEGMENT
from shortlist.devices import choose_device
from shortlist.errors import DeadlineError, RequestError, ShortlistError
from shortlist.profiles import PROFILES_URL
from shortlist.serving.guard import answer_each
from shortlist.serving.logs import INTERNAL, SLOW_MS, RequestLog
from shortlist.serving.metrics import (
    CACHE_ASKED,
    CACHE_HITS,
    CPU_SECONDS,
    ERRORS,
    PREDICATE_HITS,
    PREDICATES_COMPILED,
    REPAIRS,
    Flusher,
    Meter,
)
from shortlist.serving.model_config import DEVICE, ENGINES, placement, repairs_of
from shortlist.serving.parse import FIELDS, OTHER, field_of, parse_request
from shortlist.serving.standing import read_standing
from shortlist.serving.string_tensors import install
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
from shortlist.serving.tracing import Told, spans_from
from shortlist.slates import Recommend, SlateCache
from shortlist.stages.assortment import MOST_NEW
from shortlist.types import Request, Slate

if TYPE_CHECKING:
    from shortlist.serving.from_store import FromStore


class CascadeModel:
    """Triton's `TritonPythonModel` for all four stages in one instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up the bundle that lies beside model.py, on the device that the configuration names."""
        install(pb_utils)
        bundle, wanted = bundle_folder(args), wanted_device(args)
        device = choose_device(wanted, bundle.parent / ENGINES, placement(args))
        if device.note:
            pb_utils.Logger.log_warn(f"cascade runs on the CPU: {device.note}")
        room = MOST_NEW if os.environ.get(PROFILES_URL) else None
        self.cascade = Cascade.load(bundle, device=device, eligible=read_standing(bundle.parent), room=room)
        self.cascade.warm_up()
        version = {"version": args["model_version"], "bundle": self.cascade.version}
        self.gauges = (
            gauge("shortlist_device", "1 for the device that cascade runs on", device=device.name, wanted=wanted),
            gauge("shortlist_version", "1 for the version of cascade that is loaded, 0 for one that was", **version),
        )
        config = self.cascade.config
        self.cascade.costs.batch_seconds = config.batch_ms / 1e3
        size = 0 if config.exploration else config.cached_slates
        self.slates = SlateCache(self.cascade.recommend, size, self.cascade.assortment)
        self.recommend: Recommend = self.slates.recommend
        self._answered, self._batch = time.time_ns(), 1  # when the last batch was done, and its size
        self._by_popularity = 0
        self._stages: list[Told] = []  # of the batch that runs
        self._watch(args)
        self.store = self._store()
        gc.freeze()  # what is loaded stays: no collection needs to look through it, which takes tens of milliseconds

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        begun = time.time_ns()
        self.flusher.start()
        self.cascade.costs.way_back.observe((begun - self._answered) / 1e9, self._batch, len(requests))
        counted = not (len(requests) == 1 and requests[0].request_id() == CANARY)
        self.cascade.observer = self._observe if counted else None
        parsed = [read(request) for request in requests]
        valid = [request for request in parsed if isinstance(request, Request)]
        answers = iter(answer_each(self.recommend, valid))
        outcomes = [next(answers) if isinstance(request, Request) else request for request in parsed]
        if counted:
            self._report(requests, parsed, outcomes, begun)
        self._answered, self._batch = time.time_ns(), len(requests)
        return [respond(outcome) for outcome in outcomes]

    def finalize(self) -> None:
        """Hand over what is left. Nothing is taken apart: that would delete Triton's metrics.

        Triton 2.51 deletes a metric also from under the next version that has one of the same labels, which then writes
        to freed memory; and a Python process that ends with metrics crashes where they are deleted.
        """
        self.flusher.stop()
        if self.store:
            self.store.stop()
        for _, metric in self.gauges:
            metric.set(0)  # instances of the same labels that stay set it again
        if self.spans:
            self.spans.close()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _store(self) -> FromStore | None:
        """Have requests see what the store, where there is one, knows besides the bundle."""
        url = os.environ.get(PROFILES_URL)
        if not url:
            return None
        from shortlist.serving.from_store import FromStore

        store = FromStore(url, self.cascade, self.recommend, self.meter, os.environ, self.log.offer)
        self.recommend = store.recommend
        return store

    def _offered(self, process: str) -> list[tuple[Any, Callable[[], int]]]:
        """Gauges of what is not as in the bundle, and what says them."""
        assortment = self.cascade.assortment
        removed = gauge("shortlist_items_removed", "Items of the bundle that are not on offer now", process=process)
        added = gauge("shortlist_items_added", "Items on offer that the bundle does not know", process=process)
        return [
            (removed, lambda: assortment.removed if assortment else 0),
            (added, lambda: assortment.added if assortment else 0),
        ]

    def _watch(self, args: dict[str, str]) -> None:
        """Start metrics, logs and spans of this instance."""
        process = args["model_instance_name"]
        self.log = RequestLog(process, float(os.environ.get(SLOW_MS, "inf")) / 1e3)
        self.spans = spans_from(os.environ, {"service.instance.id": process, "service.version": self.cascade.version})
        self.meter = Meter([*FIELDS, OTHER, INTERNAL])
        self.meter.follow(CACHE_ASKED, lambda: self.slates.asked)
        self.meter.follow(CACHE_HITS, lambda: self.slates.hits)
        self.meter.follow(PREDICATE_HITS, lambda: self.cascade.eligibility.hits)
        self.meter.follow(PREDICATES_COMPILED, lambda: self.cascade.eligibility.compiled)
        self.meter.follow(CPU_SECONDS, time.process_time)
        text = "Resident memory of a process that runs cascade; shared pages of the bundle are part of each"
        memory = gauge("shortlist_resident_memory_bytes", text, process=process)
        offered = self._offered(process)

        def set_gauges() -> None:
            memory[1].set(resident_bytes())
            for (_, metric), count in offered:
                metric.set(count())
            for _, metric in self.gauges:
                metric.set(1)

        self.flusher = Flusher(self.meter, counter_family, gauges=set_gauges)
        if process.endswith("_0_0"):  # one instance speaks for the supervisor
            for kind, times in repairs_of(args).items():
                metric = self.flusher.metric(REPAIRS, (("kind", kind),))
                metric.increment(max(0, times - metric.value()))

    def _observe(self, stage: str, seconds: float, items_in: int, items_out: int) -> None:
        self.meter.observe(stage, seconds, items_in, items_out)
        self._stages.append((time.time_ns(), stage, seconds, items_in, items_out))
        if stage == "popularity":
            self._by_popularity += items_in // self.cascade.popularity.rows.shape[1]
        elif stage == SEGMENT and (lists := self.cascade.segments):
            self._by_popularity += items_in // lists.length  # instead of it

    def _report(
        self,
        requests: Sequence[Any],
        parsed: Sequence[Request | ShortlistError],
        outcomes: Sequence[Slate | ShortlistError],
        begun: int,
    ) -> None:
        """Tell metrics, logs and spans of one batch that began at `begun`, ns since 1970."""
        ended = time.time_ns()
        seconds = (ended - begun) / 1e9
        stages, self._stages = self._stages, []
        self._count(requests, outcomes, seconds)
        if seconds > self.log.slow_seconds:
            self.log.slow([r.request_id() for r in requests], seconds, {stage: taken for _, stage, taken, *_ in stages})
        if self.spans:
            together = zip(parsed, requests, outcomes, strict=True)
            asked = [(p, r.request_id(), o) for p, r, o in together if isinstance(p, Request)]
            self.spans.batch(asked, (begun, ended), stages)

    def _count(self, requests: Sequence[Any], outcomes: Sequence[Slate | ShortlistError], seconds: float) -> None:
        by_popularity, self._by_popularity = self._by_popularity, 0
        self.meter.executed(len(outcomes), seconds)
        self.meter.answered(Counter((o.status, o.share) for o in outcomes if isinstance(o, Slate)), by_popularity)
        for request, outcome in zip(requests, outcomes, strict=True):
            if not isinstance(outcome, Slate):
                self.meter.count(ERRORS, field=field_that_failed(outcome))
                self.log.failed(request.request_id(), outcome)


def bundle_folder(args: dict[str, str]) -> Path:
    """Where the bundle of this version lies: beside model.py."""
    return Path(args["model_repository"]) / args["model_version"] / "bundle"


def wanted_device(args: dict[str, str]) -> Any:
    """What the model's configuration says to run on: cpu, gpu or auto."""
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return parameters.get(DEVICE, {}).get("string_value", "cpu")


def field_that_failed(error: ShortlistError) -> str:
    """What an error is counted under."""
    if isinstance(error, DeadlineError):
        return DEADLINE.name
    return field_of(error) if isinstance(error, RequestError) else INTERNAL


def resident_bytes() -> int:
    """Memory that this process has in RAM, shared pages included."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gauge(name: str, text: str, **labels: str) -> Any:
    """A gauge of 1 on Triton's metrics endpoint, for what its labels say; 0 once no instance has it any more."""
    family = pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)
    metric = family.Metric(labels=labels)
    metric.set(1)
    return family, metric


def counter_family(name: str, text: str) -> Any:
    """A family of counters on Triton's metrics endpoint."""
    return pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.COUNTER)


def read(request: Any) -> Request | RequestError:
    """The parsed request, or the error to answer it with."""
    given = {tensor.name(): tensor for tensor in request.inputs()}
    user_id, history, exclude = (given[spec.name].as_numpy() for spec in INPUTS)
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
    """A response that carries the error and a gRPC code for it.

    The error forgets where it was raised: those frames know the whole batch and, through it, the error. Until the
    garbage collector found them, each request of the batch would keep its part of the memory shared with Triton.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
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
