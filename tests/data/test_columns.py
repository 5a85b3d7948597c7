from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist.data.columns import (
    VOCABULARY_LIMIT,
    Encoder,
    Identifier,
    column_from_document,
    column_to_document,
    fit_column,
)
from shortlist.types import Float32

SAMPLES: dict[str, list[Any]] = {
    "category": ["a", "b", "a", "b", "b", "rare", None],
    "multi": [["x", "y"], ["x"], ["y", "rare"], [], None],
    "identifier": ["a", "b", "a", "b", "rare", None],
    "numeric": [1.0, 2.0, 3.0, 10.0, None],
    "text": ["the red king", "the red queen", "The blue KING", None],
    "cyclic": [0, 5, 5, 23, None],
}


def fit(kind: str, values: list[Any]) -> Encoder:
    return fit_column("hour" if kind == "cyclic" else "x", kind, values)


def encode(encoder: Encoder, value: Any) -> Float32:
    out = np.zeros(len(encoder.names), np.float32)
    encoder.write(value, out)
    return out


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_encoder_comes_back_from_json_bit_by_bit(kind: str) -> None:
    encoder = fit(kind, SAMPLES[kind])
    again = column_from_document(json.loads(json.dumps(column_to_document(encoder))))
    for value in SAMPLES[kind]:
        assert encode(again, value).tobytes() == encode(encoder, value).tobytes()


@pytest.mark.parametrize("kind", SAMPLES)
def test_fitting_on_nothing_still_encodes(kind: str) -> None:
    encoder = fit(kind, [])
    assert np.isfinite(encode(encoder, SAMPLES[kind][0])).all()
    assert np.isfinite(encode(encoder, None)).all()


def test_a_category_is_one_hot() -> None:
    encoder = fit("category", ["a", "b", "a", "b", "b"])
    assert encoder.names == ["x=b", "x=a", "x=?"]
    assert encode(encoder, "a").tolist() == [0, 1, 0]


def test_rare_unknown_and_missing_categories_share_the_bucket() -> None:
    encoder = fit("category", ["a", "a", "rare"])
    for value in ("rare", "never seen", None):
        assert encode(encoder, value).tolist() == [0, 1]


def test_a_bucket_that_training_never_filled_is_never_written() -> None:
    encoder = fit("category", ["a", "a", "a", "b", "b", "b", "b", "b", "b"])
    np.testing.assert_allclose(encode(encoder, "unknown"), [2 / 3, 1 / 3, 0])


def test_several_values_are_multi_hot_with_one_bucket_for_others() -> None:
    encoder = fit("multi", [["x", "y"], ["x", "y"], ["rare"]])
    assert encode(encoder, ["y", "new", "x"]).tolist() == [1, 1, 1]
    assert encode(encoder, []).tolist() == [0, 0, 0]
    assert encode(encoder, None).tolist() == [0, 0, 0]


def test_a_number_is_standardised() -> None:
    values = [1.0, 2.0, 3.0, 6.0]
    encoded = [encode(fit("numeric", values), value)[0] for value in values]
    np.testing.assert_allclose([np.mean(encoded), np.std(encoded)], [0, 1], atol=1e-6)


def test_a_missing_number_takes_the_mean_and_raises_its_flag() -> None:
    encoder = fit("numeric", [1.0, 3.0, None])
    assert encode(encoder, None).tolist()[:2] == [0, 1]
    assert encode(encoder, None)[2:].sum() == 0
    assert encode(encoder, math.nan).tolist() == encode(encoder, None).tolist()


def test_the_flag_stays_down_where_training_saw_no_missing_number() -> None:
    assert encode(fit("numeric", [1.0, 3.0]), None).tolist()[:2] == [0, 0]


def test_an_outlier_is_clipped() -> None:
    assert encode(fit("numeric", [1.0, 2.0, 3.0]), 1e9)[0] == 4


def test_a_skewed_number_is_taken_by_its_logarithm() -> None:
    prices = [float(price) for price in np.exp(np.linspace(0, 9, 50))]
    low, middle, high = (encode(fit("numeric", prices), math.exp(x))[0] for x in (0, 4.5, 9))
    assert middle - low == pytest.approx(high - middle, rel=0.2)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.floats(-1e9, 1e9))
def test_every_number_falls_into_exactly_one_bin(values: list[float], value: float) -> None:
    encoded = encode(fit("numeric", values), value)
    assert encoded[2:].sum() == 1
    assert np.isfinite(encoded).all()


def test_midnight_lies_beside_eleven_at_night() -> None:
    encoder = fit("cyclic", list(range(24)))
    midnight, late, noon = (encode(encoder, hour) for hour in (0, 23, 12))
    assert np.linalg.norm(midnight - late) < np.linalg.norm(midnight - noon)


def test_a_missing_hour_takes_the_mean_of_training() -> None:
    encoder = fit("cyclic", [6, 6, 18])
    expected = (2 * encode(encoder, 6) + encode(encoder, 18)) / 3
    np.testing.assert_allclose(encode(encoder, None), expected, atol=1e-6)


def test_texts_with_the_same_words_are_alike_whatever_their_order_and_case() -> None:
    encoder = fit("text", SAMPLES["text"])
    np.testing.assert_allclose(encode(encoder, "red king"), encode(encoder, "KING, Red!"), atol=1e-6)


def test_texts_that_share_a_word_are_more_alike_than_those_that_do_not() -> None:
    encoder = fit("text", ["red king", "red queen", "blue queen", "blue king"] * 2)
    king, queen, other = (encode(encoder, text) for text in ("red king", "red queen", "blue queen"))
    assert king @ queen > king @ other


def test_words_that_training_did_not_see_are_nothing() -> None:
    assert not encode(fit("text", SAMPLES["text"]), "zebra").any()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("category", "a"),
        ("category", 3),
        ("multi", ["x"]),
        ("multi", []),
        ("numeric", 3),
        ("numeric", -0.5),
        ("text", "words"),
        ("cyclic", 0),
        ("cyclic", 23),
    ],
)
def test_good_values_of_a_request_pass_and_encode(kind: str, value: Any) -> None:
    encoder = fit(kind, SAMPLES[kind])
    assert encoder.check(value) is None
    assert np.isfinite(encode(encoder, value)).all()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("category", None),
        ("category", True),
        ("category", 1.5),
        ("category", ["a"]),
        ("category", "a" * 10_000),
        ("category", 10**400),
        ("multi", "x"),
        ("multi", [1]),
        ("multi", ["x"] * 1000),
        ("numeric", None),
        ("numeric", "3"),
        ("numeric", True),
        ("numeric", math.nan),
        ("numeric", math.inf),
        ("numeric", 10**400),
        ("text", 5),
        ("cyclic", 24),
        ("cyclic", -1),
        ("cyclic", 3.0),
        ("cyclic", "3"),
        ("cyclic", False),
        ("cyclic", {}),
    ],
)
def test_bad_values_of_a_request_are_told_what_is_allowed(kind: str, value: Any) -> None:
    assert fit(kind, SAMPLES[kind]).check(value)


def test_an_identifier_knows_more_values_than_a_category() -> None:
    values = [f"maker-{i}" for i in range(VOCABULARY_LIMIT + 50)] * 2
    assert len(Identifier.fit("maker", values).vocabulary) == VOCABULARY_LIMIT + 50


def test_identifiers_that_training_saw_once_share_a_bucket() -> None:
    encoder = Identifier.fit("maker", ["a", "a", "b"])
    rows = np.zeros((3, 2), np.float32)
    for value, row in zip(["a", "b", None], rows, strict=True):
        encoder.write(value, row)
    assert rows.tolist() == [[1, 0], [0, 1], [0, 0]]
