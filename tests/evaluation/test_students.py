"""The filters that are compared are the ones that would serve, and so is the cascade around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.config import CascadeConfig
from shortlist.evaluation import students
from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.metrics import ndcg, target_ranks
from shortlist.evaluation.student_variants import SHIPPED, Variant, make_variants
from shortlist.evaluation.students import Judged, cheapest, compare_students, cuts_of, measure, table
from shortlist.evaluation.subjects import Stage
from shortlist.training.run import load_split

CUT = (60, 30)  # the planted run's own


@pytest.fixture(scope="module")
def variants(planted_run: Path) -> dict[str, Variant]:
    return {variant.name: variant for variant in make_variants(planted_run)}


@pytest.fixture(scope="module")
def cascade(planted_run: Path) -> Cascade:
    return Cascade.load(planted_run / "bundle")


@pytest.fixture(scope="module")
def judged(cascade: Cascade, planted_run: Path) -> Judged:
    split, features = load_split(planted_run)
    return Judged.read(cascade, features, split.test)


@pytest.fixture(scope="module")
def report(planted_run: Path, variants: dict[str, Variant]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(students, "make_variants", lambda run, show_progress: list(variants.values()))
        return compare_students(planted_run, rounds=1)


def test_the_shipped_variant_is_the_graph_of_the_bundle(variants: dict[str, Variant], planted_run: Path) -> None:
    assert variants[SHIPPED].graph == (planted_run / "bundle" / "filter.onnx").read_bytes()


def test_the_shipped_variant_scores_as_the_stage_does(
    variants: dict[str, Variant], cascade: Cascade, judged: Judged
) -> None:
    some = judged.part(0, 50)
    np.testing.assert_array_equal(variants[SHIPPED].score(*some), cascade.filter.score(*some))


def test_ndcg_is_that_of_the_cascade_that_serves(
    variants: dict[str, Variant], cascade: Cascade, judged: Judged, planted_run: Path
) -> None:
    split, features = load_split(planted_run)
    rows = Stage("cascade", cascade, features).top(split.test, 0, len(split.test), 10)
    found = measure(variants[SHIPPED], judged, [CUT])["ndcg@10:60->30"]
    np.testing.assert_array_equal(found, ndcg(target_ranks(rows, split.test.targets()), 10))


def test_the_order_of_retrieval_keeps_the_first_candidates(variants: dict[str, Variant], judged: Judged) -> None:
    scores = variants["retrieval order"].score(*judged.part(0, 5))
    np.testing.assert_array_equal(np.argsort(-scores, axis=1, kind="stable"), np.tile(np.arange(60), (5, 1)))


@pytest.mark.parametrize("name", ["distilled, FP32", "distilled, FP8"])
def test_other_numbers_hardly_change_a_score(name: str, variants: dict[str, Variant], judged: Judged) -> None:
    some = judged.part(0, 50)
    expected, found = variants[SHIPPED].score(*some), variants[name].score(*some)
    real = np.isfinite(expected)
    assert np.corrcoef(expected[real], found[real])[0, 1] > 0.999


def test_pruning_makes_graphs_smaller(variants: dict[str, Variant]) -> None:
    sizes = [len(variants[f"{name}, INT8"].graph) for name in ("pruned to a quarter", "pruned to half", "distilled")]
    assert sizes == sorted(set(sizes))


def test_pruned_students_have_their_share_of_the_units(variants: dict[str, Variant]) -> None:
    names = ("distilled, FP32", "pruned to half, FP32", "pruned to a quarter, FP32", "a quarter from the start, INT8")
    assert [variants[name].hidden for name in names] == [(16,), (8,), (4,), (4,)]


def test_everything_is_compared_with_what_ships(report: dict[str, Any]) -> None:
    (shipped,) = (student for student in report["students"] if student["name"] == SHIPPED)
    assert {value for interval in shipped["difference"].values() for value in interval.values()} == {0.0}


def test_what_is_emulated_has_no_time(report: dict[str, Any]) -> None:
    untimed = [student["name"] for student in report["students"] if student["us_per_request"] is None]
    assert untimed == ["distilled, FP8"]


def test_no_filter_costs_nothing(report: dict[str, Any]) -> None:
    times = {student["name"]: student["us_per_request"] for student in report["students"]}
    assert times.pop("retrieval order") == 0 < min(time for time in times.values() if time is not None)


def test_the_cheapest_that_loses_next_to_nothing_is_chosen() -> None:
    losses = {
        "shipped": {"ndcg": Interval(0, 0, 0)},
        "lossy": {"ndcg": Interval(0, -0.01, 0.01)},
        "small": {"ndcg": Interval(-0.0001, -0.0005, 0)},
        "emulated": {"ndcg": Interval(0, 0, 0)},
    }
    times = {"shipped": 40.0, "lossy": 10.0, "small": 20.0, "emulated": None}
    assert cheapest(losses, times, "ndcg") == "small"


def test_cuts_are_the_deployed_one_and_harder_ones() -> None:
    assert cuts_of(CascadeConfig()) == [(500, 100), (200, 50), (500, 30), (500, 15)]


def test_the_table_says_what_ships(report: dict[str, Any]) -> None:
    names = list(table(report).columns[0].cells)
    assert [name for name in names if str(name).endswith("(ships)")] == [f"{SHIPPED} (ships)"]
