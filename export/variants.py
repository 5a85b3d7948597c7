"""One graph in every precision that the GPU may run it in, and where each is offered."""

from __future__ import annotations

from collections.abc import Mapping

from shortlist.errors import ConfigError
from shortlist.export.precision import lower
from shortlist.export.qdq import quantize_products

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
FIRST_CAPABILITY = {"bf16": 80, "fp8": 89}  # compute capability whose tensor cores have the type


def make_variant(graph: bytes, precision: str, ranges: Mapping[str, float]) -> bytes:
    """`graph` (FP32) in `precision`; in int8 and fp8 the matrix products are, and what lies between them is FP16.

    `ranges` are the largest magnitudes of the products' inputs, for int8 and fp8 alone.

    Raises ConfigError for an unknown precision, ValueError for a graph that cannot be quantized.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision = {precision!r}: unknown; {', '.join(PRECISIONS)} is allowed")
    if precision == "fp32":
        return graph
    if precision in ("int8", "fp8"):
        return lower(quantize_products(graph, ranges, precision), "fp16")
    return lower(graph, precision)


def is_offered(precision: str, sm: int) -> bool:
    """Whether GPUs of compute capability `sm` (89 is 8.9) have the precision."""
    return sm >= FIRST_CAPABILITY.get(precision, 0)
