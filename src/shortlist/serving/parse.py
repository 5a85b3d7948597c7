"""From the tensors and parameters of one Triton request to a valid `types.Request`.

Every check of the request's form is here; whether a context or a predicate fits the bundle, and whether a deadline has
passed, is for the cascade to say. A RequestError begins with the field's name, so that errors can be counted by field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import RequestError
from shortlist.serving.tensors import (
    CONTEXT,
    DEADLINE,
    DIVERSITY,
    ELIGIBLE,
    INPUTS,
    MAX_CONTEXT_BYTES,
    MAX_CONTEXT_DEPTH,
    MAX_ID_BYTES,
    MAX_LIST,
    PARAMETERS,
    TRACE_WANTED,
    TRACEPARENT,
    K,
    Parameter,
)
from shortlist.types import Request

Ids = NDArray[np.object_]
_TRACE_CONTEXT = re.compile(  # any version but ff, whatever later ones append; neither id is all zeros
    "(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,200})?"
)
FIELDS = frozenset([*(t.name for t in INPUTS), *PARAMETERS])
OTHER = "other"  # stands for a field that is none of ours, which keeps metric labels few


def parse_request(user_id: Ids, history: Ids, exclude: Ids, parameters: str) -> Request:
    """The request that the three tensors ([1, 1], [1, H], [1, E] of bytes) and the JSON `parameters` make.

    Raises RequestError naming the field, its value and what is allowed.
    """
    if user_id.shape != (1, 1):
        raise _refused(
            "user_id", f"a tensor of shape {list(user_id.shape)}", "shape [1, 1] is allowed: one person a request"
        )
    options = parse_parameters(parameters) if len(parameters) > 2 else {}
    return Request(
        _ids("user_id", user_id)[0],
        _ids("history", history),
        _ids("exclude", exclude),
        **options,
    )


def parse_parameters(text: str) -> dict[str, Any]:
    """The fields of Request that Triton's parameters (a JSON object) set."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(f"parameters = {_shorten(text, 80)}: it is not valid JSON") from None
    return parse_options(given)


def parse_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Request that `given` parameters set."""
    options = {}
    for name, value in given.items():
        read = _READERS.get(name)
        if read is None:
            raise _refused(name, value, f"it is no parameter; allowed are {', '.join(PARAMETERS)}")
        options[name] = read(value)
    return options


def field_of(error: RequestError) -> str:
    """The request's field that `error` is about; OTHER when it names none."""
    name = str(error).partition(" ")[0].partition(".")[0]
    return name if name in FIELDS else OTHER


def _ids(name: str, tensor: Ids) -> tuple[bytes, ...]:
    ids: list[bytes] = tensor.ravel().tolist()
    if len(ids) > MAX_LIST:
        raise _refused(name, f"{len(ids)} ids", f"at most {MAX_LIST} are allowed")
    if ids and max(map(len, ids)) > MAX_ID_BYTES:
        longest = max(ids, key=len)
        raise _refused(name, longest, f"an id of at most {MAX_ID_BYTES} bytes is allowed, this has {len(longest)}")
    try:
        b"\n".join(ids).decode()
    except UnicodeDecodeError:
        raise _refused(name, next(i for i in ids if not _is_utf8(i)), "valid UTF-8 is allowed") from None
    return tuple(ids)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON's escapes can spell characters that do not exist."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _int(value: Any, spec: Parameter) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not spec.minimum <= value <= spec.maximum:
        raise _not_allowed(spec, value)
    return value


def _number(value: Any, spec: Parameter) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not spec.minimum <= number <= spec.maximum:
        raise _not_allowed(spec, value)
    return number


def _bool(value: Any, spec: Parameter) -> bool:
    if not isinstance(value, bool):
        raise _not_allowed(spec, value)
    return value


def _trace_context(value: Any, spec: Parameter) -> str:
    if not isinstance(value, str) or not _TRACE_CONTEXT.fullmatch(value):
        raise _not_allowed(spec, value)
    return value


def _json_object(value: Any, spec: Parameter) -> Mapping[str, Any]:
    if not isinstance(value, str):
        raise _not_allowed(spec, value)
    try:
        size = len(value.encode())
        if size > MAX_CONTEXT_BYTES:
            raise _refused(spec.name, value, f"at most {MAX_CONTEXT_BYTES} bytes are allowed, this has {size}")
        found = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(
            spec.name, value, f"it is not valid JSON ({type(error).__name__}); {spec.allowed} is allowed"
        ) from None
    if not isinstance(found, dict):
        raise _not_allowed(spec, value)
    if not _is_unicode(json.dumps(found, ensure_ascii=False)):
        raise _refused(spec.name, value, "half of a surrogate pair is no character; valid Unicode is allowed")
    if _deeper_than(found, MAX_CONTEXT_DEPTH):
        raise _refused(spec.name, value, f"it is nested too deep; at most {MAX_CONTEXT_DEPTH} levels are allowed")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _deeper_than(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    children = value.values() if isinstance(value, dict) else value
    return any(_deeper_than(child, levels - 1) for child in children)


def _reader(convert: Callable[[Any, Parameter], Any], spec: Parameter) -> Callable[[Any], Any]:
    return lambda value: convert(value, spec)


_READERS: dict[str, Callable[[Any], Any]] = {
    K.name: _reader(_int, K),
    DIVERSITY.name: _reader(_number, DIVERSITY),
    CONTEXT.name: _reader(_json_object, CONTEXT),
    DEADLINE.name: _reader(_int, DEADLINE),
    TRACE_WANTED.name: _reader(_bool, TRACE_WANTED),
    TRACEPARENT.name: _reader(_trace_context, TRACEPARENT),
    ELIGIBLE.name: _reader(_json_object, ELIGIBLE),
}


def _not_allowed(spec: Parameter, value: object) -> RequestError:
    return _refused(spec.name, value, f"{spec.allowed} is allowed")


def _refused(name: str, value: object, why: str) -> RequestError:
    shown = value if isinstance(value, str) and name in ("history", "exclude", "user_id") else repr(value)
    return RequestError(f"{_shorten(name, 40)} = {_shorten(str(shown), 80)}: {why}")


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
