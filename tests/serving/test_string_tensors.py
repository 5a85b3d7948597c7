"""The replacements for two functions of Triton's Python backend: the same results, and the originals for the rest."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from shortlist.serving.string_tensors import deserializer, install, serializer

STRINGS = [b"sku-1", b"", b"\x00\x00", "größe".encode(), b"x" * 300]


def encoded(strings: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(struct.pack("<I", len(s)) + s for s in strings), np.uint8)


def refuse(_: object) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("count", range(len(STRINGS) + 1))
def test_strings_come_out_as_they_went_in(count: int) -> None:
    assert deserializer(refuse)(encoded(STRINGS[:count])).tolist() == STRINGS[:count]


def test_what_is_written_is_what_is_read() -> None:
    tensor = np.array([STRINGS], np.object_)
    assert serializer(refuse)(tensor) == encoded(STRINGS).tobytes()


@pytest.mark.parametrize("lost", [1, 3, 299, 302])
def test_a_tensor_cut_short_is_left_to_the_original(lost: int) -> None:
    with pytest.raises(NotImplementedError):
        deserializer(refuse)(encoded(STRINGS)[:-lost])


@pytest.mark.parametrize("tensor", [np.array([["text"]], np.object_), np.empty((1, 0), np.object_)])
def test_other_strings_are_left_to_the_original(tensor: np.ndarray) -> None:
    with pytest.raises(NotImplementedError):
        serializer(refuse)(tensor)


def test_the_backend_uses_them_after_installing() -> None:
    backend = SimpleNamespace(deserialize_bytes_tensor=refuse, serialize_byte_tensor=refuse)
    install(backend)
    assert (
        backend.deserialize_bytes_tensor(backend.serialize_byte_tensor(np.array(STRINGS, np.object_))).tolist()
        == STRINGS
    )
