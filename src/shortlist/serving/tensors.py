"""Every tensor and request parameter of the Triton models, declared once.

config.pbtxt (repository), the server side (parse, model), the client and the tests derive from these specs. Nothing
here imports Triton, so that a client, the stub and the tests can all read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shortlist.types import MAX_K

DataType = Literal["BYTES", "FP16", "FP32", "INT8", "INT32", "INT64", "UINT8"]
ParameterKind = Literal["int", "number", "bool", "json", "string"]

MAX_ID_BYTES = 256
MAX_LIST = 10_000
MAX_CONTEXT_BYTES = 4096
MAX_CONTEXT_DEPTH = 4
MAX_UNIX_US = 2**63 - 1
MAX_BATCH = 64
CANARY = "shortlist-canary"  # request id of the supervisor's probe: answered like any other, not counted in our metrics


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model; `shape` leaves out the batch dimension of a batched model, -1 is any length."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One optional request parameter; `allowed` is what an error message says about it."""

    name: str
    kind: ParameterKind
    allowed: str
    minimum: float = 0
    maximum: float = 0


@dataclass(frozen=True, slots=True)
class Model:
    """One Triton model of the repository: its name and what goes in and out."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool = True  # by Triton, in front of the shapes; where not, shapes are whole


USER_ID = Tensor("user_id", "BYTES", (1,), "the caller's own id; unknown takes the cold-start path; empty is anonymous")
HISTORY = Tensor("history", "BYTES", (-1,), "item ids, oldest first; when not empty it replaces the stored history")
EXCLUDE = Tensor("exclude", "BYTES", (-1,), "item ids never to return")
INPUTS = (USER_ID, HISTORY, EXCLUDE)

ITEM_ID = Tensor("item_id", "BYTES", (-1,), "the slate, best first")
SCORE = Tensor("score", "FP32", (-1,), "calibrated score of the ranker; when degraded, of the last stage that ran")
PROPENSITY = Tensor("propensity", "FP32", (-1,), "probability that exploration showed the item there; 1: deterministic")
STATUS = Tensor("status", "BYTES", (1,), "full, or what was left out: no_rank, no_filter, fallback, stale_profile")
TRACE = Tensor("trace", "BYTES", (1,), "JSON explanation; empty unless asked")
OUTPUTS = (ITEM_ID, SCORE, PROPENSITY, STATUS, TRACE)

K = Parameter("k", "int", f"an int from 1 to {MAX_K}", 1, MAX_K)
DIVERSITY = Parameter("diversity", "number", "a number from 0 to 1 (double, or string)", 0, 1)
CONTEXT = Parameter("context", "json", f"a string, a JSON object of at most {MAX_CONTEXT_BYTES} bytes")
DEADLINE = Parameter("deadline_unix_us", "int", "a positive int, microseconds since 1970 UTC", 1, MAX_UNIX_US)
TRACE_WANTED = Parameter("trace", "bool", "a bool")
ELIGIBLE = Parameter("eligible", "json", f"a string, a JSON object of at most {MAX_CONTEXT_BYTES} bytes")
TRACEPARENT = Parameter("traceparent", "string", "a W3C trace context, such as 00-<32 hex>-<16 hex>-01,")
PARAMETERS = {p.name: p for p in (K, DIVERSITY, CONTEXT, DEADLINE, TRACE_WANTED, ELIGIBLE, TRACEPARENT)}

CASCADE = Model("cascade", INPUTS, OUTPUTS)

ROWS = Tensor("rows", "INT32", (-1,), "catalogue rows of the candidates, best first")
SCORES = Tensor("scores", "FP32", (-1,), "their scores of the stage that made them")
CHANNELS = Tensor("channels", "FP32", (-1, 2), "their raw retrieval scores: tower, linear")
CANDIDATES = (ROWS, SCORES, CHANNELS)

RETRIEVE = Model("retrieve", INPUTS, CANDIDATES)
FILTER = Model("filter", (*INPUTS, *CANDIDATES), CANDIDATES)
RANK = Model("rank", (*INPUTS, *CANDIDATES), CANDIDATES)
DIVERSIFY = Model("diversify", CANDIDATES, (ITEM_ID, SCORE))
STAGES = (RETRIEVE, FILTER, RANK, DIVERSIFY)
ENSEMBLE = Model("stages", INPUTS, DIVERSIFY.outputs)
"""The four stage models as a Triton ensemble: for teams who mix their own stages in; `cascade` is the fast one."""
