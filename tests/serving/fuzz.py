"""Malformed and borderline requests, as many as wanted, for a served cascade; each is a function of seed and number.

    python -m tests.serving.fuzz --requests 100000

Left out is what is known to kill Triton 2.51 itself: `classification` of an output of strings.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE, PARAMETERS
from shortlist.types import FALLBACK, FULL, NO_FILTER, NO_RANK
from tests.factories import make_bundle
from tests.serving.bad_requests import BAD_CONTEXTS, BAD_IDS, BAD_PARAMETERS

METHOD = "/inference.GRPCInferenceService/ModelInfer"
IN_FLIGHT = 32
HANGS = 30.0  # seconds after which a request counts as never answered
INTS = (0, 1, -1, 7, 50, 51, 2**31, 2**63 - 1, -(2**63))
DOUBLES = (0.0, -0.0, 0.5, 1.0, 10.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324)
TEXTS = (
    "",
    "0",
    "nan",
    "1e400",
    "{}",
    "[]",
    "null",
    "{",
    '{"hour": 1e999}',
    '{"hour": 3}',
    "\0",
    "é" * 3000,
    "[" * 4000,
)
TEXTS += ('{"hour": 9007199254740993}', '{"": 0}', '{"a":1,"a":2}', '"' * 50, "00-" + "a" * 32 + "-" + "b" * 16 + "-01")
NAMES = (*PARAMETERS, "", "K", "k ", "user_id", "é", "x" * 5000, "priority", "timeout", "sequence_id", "sequence_start")
NAMES += ("sequence_end", "binary_data_output", "triton_enable_empty_final_response", "headers", "__proto__")
DIMENSIONS = (-(2**63), -1, 0, 1, 2, 3, 64, 65, 10_001, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
TYPES = ("", "BYTES ", "bytes", "FP32", "INT8", "UINT8", "BOOL", "FP16", "BF16", "INT64", "STRING", "é")
VERSIONS = ("", "1", "0", "2", "-1", "999999999999", "one", "1.0", " 1", "x" * 1000)
MODELS = ("", "Cascade", "cascade ", "../cascade", "stages", "x" * 10_000, "é\n")
Message = Any


def request(seed: int, number: int) -> bytes:
    """The encoded request of that number: a plausible one, with up to three things wrong, or bytes of any kind."""
    rng = random.Random(f"{seed}/{number}")
    message = plausible(rng)
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 3))):
        rng.choice(WRONGS)(rng, message)
    encoded: bytes = message.SerializeToString()
    return rng.choice(GARBLES)(rng, encoded) if rng.random() < 0.15 else encoded


def plausible(rng: random.Random) -> Message:
    """A request that the server should answer, near the borders of what is allowed."""
    message = service_pb2.ModelInferRequest(model_name=CASCADE.name, id=rng.choice(("", "a", "é" * 100)))
    user = rng.choice((b"", b"user-0", b"user-7", b"nobody", b"u" * 256, "üser\n".encode(), b"\0"))
    lengths = (0, 0, 1, 2, 50, 51, 300, rng.choice((0, 10_000)))
    for name, values in zip(
        ("user_id", "history", "exclude"), ([user], *(ids(rng, rng.choice(lengths)) for _ in range(2))), strict=True
    ):
        message.inputs.add(name=name, datatype="BYTES", shape=[1, len(values)])
        message.raw_input_contents.append(packed(values))
    options: dict[str, Any] = {
        "k": rng.choice((1, 2, 10, 49, 50)),
        "diversity": rng.choice((0.0, 0.5, 1.0)),
        "context": rng.choice(('{"hour": 3}', "{}", '{"device": "phone"}', '{"device": null}', '{"hour": 1e300}')),
        "deadline_unix_us": rng.choice((1, time_us(60), 2**63 - 1)),
        "trace": rng.random() < 0.2,
        "traceparent": f"00-{rng.getrandbits(128) | 1:032x}-{rng.getrandbits(64) | 1:016x}-01",
    }
    for name in rng.sample(sorted(options), rng.randrange(4)):
        set_parameter(message.parameters[name], options[name])
    return message


def time_us(seconds: float) -> int:
    """A moment far enough from any test, the same in every run."""
    return int((4_000_000_000 + seconds) * 1e6)


def ids(rng: random.Random, count: int) -> list[bytes]:
    """Item ids: known, unknown, empty and repeated ones."""
    some = [b"item-%d" % rng.randrange(320), b"", b"item-1", b"nothing", "ärtikel".encode(), b"x" * 256]
    return [rng.choice(some) if rng.random() < 0.3 else b"item-%d" % rng.randrange(320) for _ in range(count)]


def packed(values: Iterable[bytes]) -> bytes:
    """The wire form of a tensor of bytes."""
    return b"".join(struct.pack("<I", len(v)) + v for v in values)


def set_parameter(parameter: Message, value: Any) -> None:
    """Set the member of the union that fits the value's type; None sets none."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    if value is not None:
        setattr(parameter, kinds[type(value)], value)


def wrong_parameter(rng: random.Random, message: Message) -> None:
    """Any value for any name, known or not."""
    parameter = message.parameters[rng.choice(NAMES)]
    if rng.random() < 0.1:
        parameter.uint64_param = rng.choice((0, 10, 2**64 - 1))
    else:
        set_parameter(parameter, rng.choice((*INTS, *DOUBLES, *TEXTS, True, False, None)))


def listed_parameter(rng: random.Random, message: Message) -> None:
    """One of the bad parameters and contexts that the other tests know."""
    contexts = [("context", json.dumps(value), "") for _, value in BAD_CONTEXTS.values()]
    name, value, _ = rng.choice([*BAD_PARAMETERS.values(), *contexts])
    set_parameter(message.parameters[name], value)


def listed_ids(rng: random.Random, message: Message) -> None:
    """One of the bad tensors that the other tests know."""
    name, values, _ = rng.choice(list(BAD_IDS.values()))
    for number, tensor in enumerate(message.inputs):
        if tensor.name == name and number < len(message.raw_input_contents):
            del tensor.shape[:]
            tensor.shape.extend([1, len(values)])
            message.raw_input_contents[number] = packed(values)


def wrong_eligible(rng: random.Random, message: Message) -> None:
    """Predicates over attributes that the bundle does not have, of any shape."""
    value: Any = rng.choice(({"locale": "de"}, {"price": {"min": 2, "max": 1}}, {"": []}, {"a": None}, [], 3, {}))
    message.parameters["eligible"].string_param = json.dumps(value)


def wrong_shape(rng: random.Random, message: Message) -> None:
    """Dimensions that are negative, huge, too many or too few."""
    if message.inputs:
        shape = rng.choice(message.inputs).shape
        if len(shape) and rng.random() < 0.5:
            shape[rng.randrange(len(shape))] = rng.choice(DIMENSIONS)
        else:
            del shape[:]
            shape.extend(rng.choice(DIMENSIONS) for _ in range(rng.choice((0, 1, 2, 3, 40))))


def wrong_type(rng: random.Random, message: Message) -> None:
    """A tensor of another type, or of another name."""
    if message.inputs:
        tensor = rng.choice(message.inputs)
        if rng.random() < 0.7:
            tensor.datatype = rng.choice(TYPES)
        else:
            tensor.name = rng.choice(("", "user", "history", "user_id", "x" * 5000))


def wrong_content(rng: random.Random, message: Message) -> None:
    """Raw contents that are too short, too long, or say false lengths."""
    if message.raw_input_contents:
        number = rng.randrange(len(message.raw_input_contents))
        content = message.raw_input_contents[number]
        cut = rng.randrange(len(content) + 1)
        lie = struct.pack("<I", rng.choice((0xFFFFFFFF, 0x7FFFFFFF, 5, 0)))
        message.raw_input_contents[number] = rng.choice(
            (b"", content[:cut], content + b"\0", content + content, lie + content[4:], lie, rng.randbytes(cut % 300))
        )


def wrong_tensors(rng: random.Random, message: Message) -> None:
    """Tensors that are missing, doubled, in another order, in other fields, or in shared memory."""
    kind = rng.randrange(6)
    if kind == 0 and message.inputs:
        del message.inputs[rng.randrange(len(message.inputs))]
    elif kind == 1 and message.raw_input_contents:
        del message.raw_input_contents[rng.randrange(len(message.raw_input_contents))]
    elif kind == 2 and message.inputs:
        message.inputs.add().CopyFrom(rng.choice(message.inputs))
    elif kind == 3 and message.inputs:
        tensor = rng.choice(message.inputs)
        tensor.contents.bytes_contents.extend(ids(rng, rng.choice((0, 1, 3))))
        tensor.contents.fp32_contents.extend([float("nan")] * rng.choice((0, 1)))
        if rng.random() < 0.5:
            del message.raw_input_contents[:]
    elif kind == 4 and message.inputs:
        place = rng.choice(message.inputs).parameters
        place["shared_memory_region"].string_param = rng.choice(("", "none", "../../dev/shm/x"))
        place["shared_memory_byte_size"].int64_param = rng.choice(INTS)
    else:
        reverse = list(message.raw_input_contents)[::-1]
        del message.raw_input_contents[:]
        message.raw_input_contents.extend(reverse)


def wrong_outputs(rng: random.Random, message: Message) -> None:
    """Outputs by name: some, unknown, twice, or in shared memory that nobody registered."""
    for _ in range(rng.choice((1, 2, 5))):
        output = message.outputs.add(name=rng.choice(("item_id", "score", "status", "nothing", "")))
        if rng.random() < 0.2:
            output.parameters["shared_memory_region"].string_param = "none"
            output.parameters["shared_memory_byte_size"].int64_param = rng.choice(INTS)


def wrong_model(rng: random.Random, message: Message) -> None:
    """Another model or version."""
    if rng.random() < 0.5:
        message.model_version = rng.choice(VERSIONS)
    else:
        message.model_name = rng.choice(MODELS)


WRONGS: tuple[Callable[[random.Random, Message], None], ...] = (
    *(wrong_parameter, wrong_parameter, listed_parameter, listed_parameter, listed_ids, wrong_eligible),
    *(wrong_shape, wrong_shape, wrong_type, wrong_content, wrong_content, wrong_tensors, wrong_outputs, wrong_model),
)


def flipped(rng: random.Random, encoded: bytes) -> bytes:
    """Some bits turned over, most of them near the start, where the structure is."""
    turned = bytearray(encoded)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if turned:
            turned[rng.randrange(min(len(turned), rng.choice((40, 400, len(turned)))))] ^= 1 << rng.randrange(8)
    return bytes(turned)


def cut(rng: random.Random, encoded: bytes) -> bytes:
    """The beginning."""
    return encoded[: rng.randrange(len(encoded) + 1)]


def spliced(rng: random.Random, encoded: bytes) -> bytes:
    """Foreign bytes in the middle."""
    at = rng.randrange(len(encoded) + 1)
    return encoded[:at] + rng.randbytes(rng.choice((1, 4, 100))) + encoded[at:]


def noise(rng: random.Random, _: bytes) -> bytes:
    """No request at all."""
    return rng.randbytes(rng.choice((0, 1, 10, 200)))


GARBLES: tuple[Callable[[random.Random, bytes], bytes], ...] = (flipped, flipped, cut, spliced, noise)


@dataclass
class Found:
    """What became of the requests: how many of each kind of answer, and those that should not be."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)  # number of the request, what was wrong


def run(target: str, seed: int, numbers: Sequence[int], tell: Callable[[int], None] = lambda _: None) -> Found:
    """Send the requests of these numbers, some at once, and judge every answer."""
    found, room, lock = Found(), threading.Semaphore(IN_FLIGHT), threading.Lock()

    def done(number: int, call: Any) -> None:
        kind, fault = judge(call)
        with lock:
            found.answers[kind] += 1
            if fault:
                found.faults.append((number, fault))
        room.release()

    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 16)]  # errors quote what was sent
    with grpc.insecure_channel(target, options) as channel:
        send = channel.unary_unary(METHOD)
        for count, number in enumerate(numbers):
            room.acquire()
            send.future(request(seed, number), timeout=HANGS).add_done_callback(lambda call, n=number: done(n, call))
            tell(count)
        for _ in range(IN_FLIGHT):
            room.acquire()
    return found


def judge(call: Any) -> tuple[str, str]:
    """The kind of an answer, and what is wrong with it: nothing, where it is a slate or an error that says why."""
    code, details = call.code(), str(call.details() or "")
    if code == grpc.StatusCode.OK:
        return slate_of(service_pb2.ModelInferResponse.FromString(call.result()))
    known = code.name in ("INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED", "UNIMPLEMENTED")
    tritons = ("unknown model", "is not found", "Error in parsing", "Could not deserialize", "parse", "no available")
    known |= any(word in details for word in (*tritons, "nable to find shared memory", "expected"))
    if not details or "internal error" in details or not known:
        return code.name, f"{code.name}: {details[:300]}"
    return code.name, ""


def slate_of(response: Message) -> tuple[str, str]:
    """The status of a slate, and what is wrong with the slate."""
    raw = {o.name: c for o, c in zip(response.outputs, response.raw_output_contents, strict=True)}
    items = list(unpacked(raw.get("item_id", b"")))
    status = next(unpacked(raw["status"]), b"").decode() if "status" in raw else FULL
    if len(items) > 50 or len(set(items)) < len(items) or status not in (FULL, NO_RANK, NO_FILTER, FALLBACK):
        return f"slate, {status}", f"{len(items)} items, {len(set(items))} different, status {status!r}"
    return f"slate, {status}", ""


def unpacked(content: bytes) -> Iterator[bytes]:
    """The values of a tensor of bytes."""
    while content:
        size = int.from_bytes(content[:4], "little")
        yield content[4 : 4 + size]
        content = content[4 + size :]


def memory(supervisor: Supervisor) -> dict[str, float]:
    """Megabytes of the server's and each stub's own memory, and of the memory that they share to hand over tensors.

    The latter grows to what the largest requests in flight need, and stays.
    """
    sizes = {
        "server": resident(supervisor.server.pid, "RssAnon"),
        "shared": resident(supervisor.server.pid, "RssShmem"),
    }
    stubs = enumerate(supervisor.server.stubs())
    return sizes | {f"stub {number}": resident(stub.pid, "RssAnon") for number, stub in stubs}


def resident(pid: int, kind: str) -> float:
    """Megabytes of one kind of a process's resident memory, as Linux counts it."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def main() -> None:
    """Serve a small bundle, send it all, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    parts = 10
    with tempfile.TemporaryDirectory(prefix="shortlist-fuzz-") as folder:
        build_repository(make_bundle(Path(folder) / "bundle"), Path(folder) / "repository")
        with Supervisor(Path(folder) / "repository", free_address(), instances=1, on_event=print) as supervisor:
            stubs = [stub.pid for stub in supervisor.server.stubs()]
            total, started = Found(), time.monotonic()
            print(f"before            {_told(memory(supervisor))}", flush=True)
            for part in range(parts):
                numbers = range(part * given.requests // parts, (part + 1) * given.requests // parts)
                found = run(supervisor.address.grpc, given.seed, numbers)
                total.answers += found.answers
                total.faults += found.faults
                print(f"{numbers.stop:7} {time.monotonic() - started:7.0f} s {_told(memory(supervisor))}", flush=True)
            same = stubs == [stub.pid for stub in supervisor.server.stubs()]
            same &= supervisor.restarts == supervisor.reloads == 0
    for kind, count in total.answers.most_common():
        print(f"{count:8,} {kind}")
    for number, fault in total.faults[:40]:
        print(f"FAULT {number}: {fault}")
    print(f"{len(total.faults)} faults; {'no process ended' if same else 'PROCESSES ENDED'}")
    sys.exit(bool(total.faults) or not same)


def _told(sizes: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items())


if __name__ == "__main__":
    main()
