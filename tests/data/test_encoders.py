from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from shortlist.data.encoders import FeatureEncoder
from shortlist.errors import RequestError

KINDS = {"age": "numeric", "gender": "category", "likes": "multi", "about": "text", "hour": "cyclic"}
COLUMNS: dict[str, list[Any]] = {
    "age": [20.0, 30.0, None, 30.0],
    "gender": ["F", "M", None, "F"],
    "likes": [["a", "b"], ["a"], None, []],
    "about": ["red car", "blue car", None, "red bus"],
    "hour": [1, 2, None, 23],
}


@pytest.fixture
def encoder() -> FeatureEncoder:
    return FeatureEncoder.fit(KINDS, COLUMNS)


def test_one_row_has_the_bits_of_the_same_row_of_a_table(encoder: FeatureEncoder) -> None:
    table = encoder.transform(COLUMNS, 4)
    for place in range(4):
        row = encoder.row({name: column[place] for name, column in COLUMNS.items()})
        assert row.tobytes() == table[place].tobytes()


def test_the_document_gives_the_same_rows(encoder: FeatureEncoder) -> None:
    again = FeatureEncoder.from_document(json.loads(json.dumps(encoder.to_document())))
    assert again.transform(COLUMNS, 4).tobytes() == encoder.transform(COLUMNS, 4).tobytes()
    assert again.names == encoder.names


def test_numpy_columns_give_the_rows_of_lists(encoder: FeatureEncoder) -> None:
    lists: dict[str, list[Any]] = {
        "age": [1.5, 40.0],
        "hour": [3, 4],
        "gender": ["F", "X"],
        "likes": [["a"], ["b", "c"]],
    }
    arrays = {
        "age": np.array(lists["age"]),
        "hour": np.array(lists["hour"]),
        "gender": np.array(lists["gender"], object),
        "likes": np.array([np.array(["a"]), np.array(["b", "c"])], object),
    }
    assert encoder.transform(arrays, 2).tolist() == encoder.transform(lists, 2).tolist()


def test_a_column_that_is_not_given_is_missing(encoder: FeatureEncoder) -> None:
    given = encoder.transform({"age": [20.0, 30.0]}, 2)
    assert given[1].tolist() == encoder.row({"age": 30.0}).tolist()


def test_there_is_a_name_for_each_feature(encoder: FeatureEncoder) -> None:
    assert encoder.transform(COLUMNS, 4).shape == (4, encoder.width)
    assert len(set(encoder.names)) == encoder.width


def test_nothing_to_encode_is_one_zero_column() -> None:
    encoder = FeatureEncoder.fit({}, {})
    assert encoder.row({}).tolist() == [0]
    assert encoder.transform({}, 3).tolist() == [[0], [0], [0]]


def test_a_good_request_passes(encoder: FeatureEncoder) -> None:
    encoder.validate({"hour": 3, "gender": "a new one", "age": 5})


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"hour": 24}, r"context\.hour = 24 is invalid; allowed: an integer from 0 to 23"),
        ({"hour": "3"}, r"context\.hour = '3' is invalid"),
        ({"age": None}, r"context\.age = None is invalid; allowed: a number"),
        ({"planet": "Mars"}, r"context\.planet = 'Mars' is invalid; allowed: only the fields age, gender"),
        ({"hour": 10**5000}, r"context\.hour = an integer of many digits is invalid"),
        ({"likes": "a"}, r"context\.likes = 'a' is invalid; allowed: a list"),
        ([1, 2], r"context = \[1, 2\] is invalid; allowed: an object"),
    ],
    ids=lambda case: None if isinstance(case, str) else "context",
)
def test_a_bad_request_is_told_field_value_and_what_is_allowed(
    encoder: FeatureEncoder, context: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        encoder.validate(context)


def test_a_long_bad_value_is_cut_short_in_the_error(encoder: FeatureEncoder) -> None:
    with pytest.raises(RequestError) as caught:
        encoder.validate({"hour": "3" * 100_000})
    assert len(str(caught.value)) < 200


def test_data_without_context_allow_no_field() -> None:
    with pytest.raises(RequestError, match="allowed: no field"):
        FeatureEncoder.fit({}, {}).validate({"hour": 3})


def test_a_long_field_is_shortened_in_the_error() -> None:
    with pytest.raises(RequestError) as refused:
        FeatureEncoder.fit({}, {}).validate({"x" * 4000: 1})
    assert len(str(refused.value)) < 200


def test_sparse_rows_are_the_dense_rows() -> None:
    kinds = {"maker": "identifier", "genre": "multi", "age": "numeric", "kind": "category"}
    columns = {
        "maker": ["a", "b", "a", None, "b", "c"],
        "genre": [["x", "y"], ["x"], None, [], ["y"], ["z"]],
        "age": [1.0, 2.0, None, 4.0, 5.0, 6.0],
        "kind": ["k", "k", "l", "l", None, "m"],
    }
    encoder = FeatureEncoder.fit(kinds, columns)
    np.testing.assert_array_equal(encoder.transform_sparse(columns, 6).toarray(), encoder.transform(columns, 6))


def test_columns_that_are_not_given_are_missing_in_sparse_rows_too() -> None:
    encoder = FeatureEncoder.fit({"age": "numeric"}, {"age": [1.0, None, 3.0]})
    np.testing.assert_array_equal(encoder.transform_sparse({}, 2).toarray(), encoder.transform({}, 2))
