"""Every way to get one field of a request wrong, for the parser's tests and for those through gRPC."""

import json
from typing import Any

BAD_PARAMETERS: dict[
    str, tuple[str, Any, str]
] = {  # name -> (parameter, value, part of what the error says is allowed)
    "k zero": ("k", 0, "1 to 50"),
    "k negative": ("k", -3, "1 to 50"),
    "k too large": ("k", 51, "1 to 50"),
    "k huge": ("k", 2**62, "1 to 50"),
    "k a string": ("k", "10", "an int"),
    "k a double": ("k", 10.0, "an int"),
    "k a bool": ("k", True, "an int"),
    "diversity below 0": ("diversity", -0.1, "0 to 1"),
    "diversity above 1": ("diversity", 1.5, "0 to 1"),
    "diversity not a number": ("diversity", "very", "a number"),
    "diversity nan": ("diversity", float("nan"), "0 to 1"),
    "diversity nan as string": ("diversity", "nan", "0 to 1"),
    "diversity infinite": ("diversity", float("inf"), "0 to 1"),
    "diversity a bool": ("diversity", True, "a number"),
    "diversity empty": ("diversity", "", "a number"),
    "context not JSON": ("context", "{hour: 3", "JSON"),
    "context empty": ("context", "", "JSON"),
    "context a list": ("context", "[1, 2]", "JSON object"),
    "context a number": ("context", 5, "a string"),
    "context with NaN": ("context", '{"hour": NaN}', "JSON"),
    "context too deep": ("context", json.dumps({"hour": {"a": {"b": {"c": {"d": 1}}}}}), "at most 4 levels"),
    "context far too deep": ("context", '{"hour": ' + "[" * 2000 + "]" * 2000 + "}", "JSON"),
    "context with half a character": ("context", '{"\\ud800": 1}', "valid Unicode"),
    "context with half a character as value": ("context", '{"device": "\\udfff"}', "valid Unicode"),
    "context too large": ("context", json.dumps({"device": "x" * 5000}), "at most 4096 bytes"),
    "deadline zero": ("deadline_unix_us", 0, "positive int"),
    "deadline negative": ("deadline_unix_us", -1, "positive int"),
    "deadline a string": ("deadline_unix_us", "soon", "positive int"),
    "deadline a double": ("deadline_unix_us", 1.5e15, "positive int"),
    "trace a string": ("trace", "yes", "a bool"),
    "trace an int": ("trace", 1, "a bool"),
    "traceparent of another form": ("traceparent", "0af7651916cd43dd", "W3C trace context"),
    "traceparent all zeros": ("traceparent", f"00-{'0' * 32}-b7ad6b7169203331-01", "W3C trace context"),
    "traceparent an int": ("traceparent", 1, "W3C trace context"),
    "eligible not JSON": ("eligible", "{locale: de}", "JSON"),
    "eligible a list": ("eligible", "[1]", "JSON object"),
    "eligible an int": ("eligible", 1, "a string"),
    "eligible with infinity": ("eligible", '{"price": {"max": Infinity}}', "JSON"),
    "eligible too deep": ("eligible", '{"price": {"any": [[[1]]]}}', "at most 4 levels"),
    "eligible too large": ("eligible", json.dumps({"locale": ["x" * 5000]}), "at most 4096 bytes"),
    "unknown parameter": ("kk", 10, "allowed are k, diversity, context, deadline_unix_us, trace, eligible"),
    "a tensor's name": ("user_id", "42", "allowed are k"),
}

BAD_IDS: dict[str, tuple[str, list[bytes], str]] = {  # name -> (tensor, ids, part of what is allowed)
    "user_id too long": ("user_id", [b"u" * 257], "at most 256 bytes"),
    "user_id not UTF-8": ("user_id", [b"\xff\xfe"], "valid UTF-8"),
    "history too long": ("history", [b"item-1"] * 10_001, "at most 10000"),
    "history with a long id": ("history", [b"item-1", b"x" * 257], "at most 256 bytes"),
    "history not UTF-8": ("history", [b"item-1", b"\xc3"], "valid UTF-8"),
    "exclude too long": ("exclude", [b"item-1"] * 10_001, "at most 10000"),
    "exclude with a long id": ("exclude", [b"x" * 1_000_000], "at most 256 bytes"),
    "exclude not UTF-8": ("exclude", [b"\xed\xa0\x80"], "valid UTF-8"),
}

BAD_CONTEXTS: dict[str, tuple[str, dict[str, Any]]] = {  # valid JSON objects that do not fit the tiny bundle's schema
    "context with an unknown field": ("context.colour", {"colour": "red"}),
    "context hour a string": ("context.hour", {"hour": "noon"}),
    "context hour nested": ("context.hour", {"hour": {"a": 1}}),
    "context device a list": ("context.device", {"device": ["phone"]}),
}
