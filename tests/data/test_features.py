from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from scipy.sparse import issparse

from shortlist.config import Protocol
from shortlist.data import ml_100k
from shortlist.data.dataset import Dataset
from shortlist.data.features import Features, fit_features
from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples, Split, make_split
from shortlist.errors import RequestError
from tests.data.small import interactions, random_dataset

PROTOCOLS = get_args(Protocol)
ARRAYS = ("item_content", "item_features", "user_features")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return random_dataset()


@pytest.fixture(scope="module")
def features(dataset: Dataset) -> Features:
    return fit_features(dataset, make_split(dataset.log(), "leave-one-out"))


def scramble_held_out(split: Split) -> InteractionLog:
    """The full log with other items, values and later times wherever training does not look."""
    log, rng = split.deploy_log, np.random.default_rng(9)
    held_out = np.ones(len(log), bool)
    held_out[log.offsets[split.train.users()] + split.train.positions()] = False
    return replace(
        log,
        rows=np.where(held_out, rng.integers(0, log.n_items, len(log)), log.rows).astype(np.int32),
        values=np.where(held_out, 99, log.values).astype(np.float32),
        timestamps=np.where(held_out, log.timestamps + 12_345_678, log.timestamps),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_test_rows_change_no_fitted_feature(dataset: Dataset, protocol: Protocol) -> None:
    split = make_split(dataset.log(), protocol)
    changed = scramble_held_out(split)
    assert not np.array_equal(changed.rows, split.deploy_log.rows)
    again = Split(
        protocol,
        changed.keep(trained_events(split)),
        replace(split.validation, log=changed),
        replace(split.test, log=changed),
    )
    before, after = fit_features(dataset, split), fit_features(dataset, again)
    assert before.to_document() == after.to_document()
    for name in ARRAYS:
        assert getattr(before, name).tobytes() == getattr(after, name).tobytes()


def trained_events(split: Split) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(len(split.deploy_log), bool)
    mask[split.deploy_log.offsets[split.train.users()] + split.train.positions()] = True
    return mask


def test_attributes_of_held_out_users_fit_nothing(dataset: Dataset) -> None:
    split = make_split(dataset.log(), "cold-users")
    cold = split.train.lengths() == 0
    older = dataset.users.with_columns(age=pl.when(pl.Series(cold)).then(pl.col("age") + 50).otherwise("age"))
    before, after = fit_features(dataset, split), fit_features(replace(dataset, users=older), split)
    assert before.to_document() == after.to_document()
    assert before.user_features.tolist() != after.user_features.tolist()


def test_training_events_do_change_the_features(dataset: Dataset) -> None:
    log = dataset.log()
    fewer = log.keep(np.arange(len(log)) % 2 == 0)
    assert fit_features(dataset, log).item_features.tolist() != fit_features(dataset, fewer).item_features.tolist()


def test_serving_makes_the_user_rows_that_training_saw(dataset: Dataset, features: Features) -> None:
    serving = Features.from_document(json.loads(json.dumps(features.to_document())))
    for row, attributes in enumerate(dataset.users.drop("user_id").iter_rows(named=True)):
        assert serving.user_row(attributes).tobytes() == features.user_features[row].tobytes()


def test_serving_makes_the_item_rows_that_training_saw(dataset: Dataset, features: Features) -> None:
    serving = Features.from_document(json.loads(json.dumps(features.to_document())))
    for row, attributes in enumerate(dataset.items.drop("item_id").iter_rows(named=True)):
        assert serving.item_row(attributes).tobytes() == features.item_content[row].tobytes()


def test_serving_makes_the_context_rows_that_training_saw(dataset: Dataset, features: Features) -> None:
    serving = Features.from_document(json.loads(json.dumps(features.to_document())))
    examples = Examples.every(dataset.log())
    rows, columns = features.context(examples, 5, 25), examples.contexts(5, 25)
    for place in range(20):
        context = {name: column[place].item() for name, column in columns.items()}
        assert serving.context_row(context).tobytes() == rows[place].tobytes()


def test_the_side_is_user_then_context(dataset: Dataset, features: Features) -> None:
    examples = make_split(dataset.log(), "leave-one-out").test
    side = features.side(examples, 3, 8)
    width = features.user_features.shape[1]
    assert side.shape == (5, features.side_width)
    assert side.dtype == np.float32
    assert side[:, :width].tolist() == features.user_features[examples.users[3:8]].tolist()
    assert side[:, width:].tolist() == features.context(examples, 3, 8).tolist()


def test_the_side_of_all_examples_is_that_of_its_batches(dataset: Dataset, features: Features) -> None:
    examples = make_split(dataset.log(), "leave-one-out").test
    batches = [features.side(examples, start, start + 7) for start in range(0, len(examples), 7)]
    assert features.side(examples).tolist() == np.concatenate(batches).tolist()


def test_somebody_unknown_has_a_row_of_missing_attributes(features: Features) -> None:
    assert features.user_row(None).tolist() == features.user_row({"age": None, "gender": None}).tolist()


def test_the_context_is_checked_against_the_data(features: Features) -> None:
    features.validate_context({"hour": 23, "weekday": 0})
    with pytest.raises(RequestError, match=r"context\.weekday = 7 is invalid; allowed: an integer from 0 to 6"):
        features.validate_context({"weekday": 7})


def test_data_without_attributes_and_time_have_one_zero_column_of_each() -> None:
    rows = [(f"u{event % 3}", f"i{event % 4}", None, "interaction", None) for event in range(12)]
    bare = Dataset.assemble(interactions(rows))
    features = fit_features(bare, make_split(bare.log(), "leave-one-out"))
    assert features.item_content.tolist() == [[0.0]] * 4
    assert features.side(Examples.every(bare.log()), 0, 2).tolist() == [[0, 0], [0, 0]]


def test_context_columns_of_the_data_become_features() -> None:
    rows = [(f"u{event % 3}", f"i{event % 4}", 10**9 + event, "interaction", None) for event in range(12)]
    table = interactions(rows).with_columns(device=pl.Series(["tv", "phone"] * 6))
    dataset = Dataset.assemble(table, context_attributes={"device": "category"})
    features = fit_features(dataset, dataset.log())
    assert features.context_encoder.schema() == {"hour": "cyclic", "weekday": "cyclic", "device": "category"}
    examples = Examples.every(dataset.log(), first=0)
    tv = features.context_encoder.names.index("device=tv")
    expected = [float(device == "tv") for device in dataset.log().context["device"]]
    assert features.context(examples)[:, tv].tolist() == expected


def test_a_log_of_other_data_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="its data set"):
        fit_features(random_dataset(items=5), dataset.log())


def test_one_row_for_serving_takes_microseconds() -> None:
    dataset = ml_100k.load()
    features = fit_features(dataset, make_split(dataset.log(), "leave-one-out"))
    user = dataset.users.drop("user_id").row(0, named=True)
    best = min(time_rows(features, user) for _ in range(20))
    assert best < 50e-6


def time_rows(features: Features, user: dict[str, object], repeats: int = 50) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        features.user_row(user)
        features.context_row({"hour": 12, "weekday": 3})
    return (time.perf_counter() - started) / repeats


def test_wide_content_of_many_items_is_kept_sparse(
    dataset: Dataset, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.data.features.DENSE_CELLS", 10)
    content = fit_features(dataset, make_split(dataset.log(), "leave-one-out")).item_content
    assert issparse(content)
    np.testing.assert_array_equal(content.toarray(), features.item_content)
