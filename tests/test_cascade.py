"""The whole path on a small bundle: who gets what, who gets an error, and what a trace tells."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist import catalog
from shortlist.bundle import MANIFEST, Bundle, _write_manifest
from shortlist.cascade import Cascade
from shortlist.catalog import Catalog, IdMap
from shortlist.deadlines import Effort, StageCost
from shortlist.errors import BundleError, DeadlineError, RequestError
from shortlist.stages import best, diversify, fusion
from shortlist.types import Request, Slate
from tests.factories import make_bundle

DEAR = StageCost(fixed=1000.0, each=0.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("cascade") / "bundle")


@pytest.fixture(scope="module")
def cascade(path: Path) -> Cascade:
    cascade = Cascade.load(path, seed=0)
    cascade.warm_up()
    return cascade


def _one(cascade: Cascade, request: Request) -> Slate:
    (answer,) = cascade.recommend([request])
    assert isinstance(answer, Slate), answer
    return answer


def _history(path: Path, user: int) -> set[bytes]:
    bundle = Bundle.open(path)
    offsets, rows = bundle.array("profile_offsets"), bundle.array("profile_rows")
    return {f"item-{row}".encode() for row in rows[offsets[user] : offsets[user + 1]]}


def test_a_known_user_gets_ten_new_items(cascade: Cascade, path: Path) -> None:
    slate = _one(cascade, Request(user_id=b"user-0"))
    assert len(slate.item_ids) == len(set(slate.item_ids)) == 10
    assert slate.status == "full"
    assert not set(slate.item_ids) & _history(path, 0)
    assert (slate.propensities == 1).all()


@pytest.mark.parametrize("k", [1, 7, 50])
def test_k_is_kept(cascade: Cascade, k: int) -> None:
    assert len(_one(cascade, Request(user_id=b"user-0", k=k)).item_ids) == k


def test_without_diversity_scores_descend(cascade: Cascade) -> None:
    scores = _one(cascade, Request(user_id=b"user-0", k=50, diversity=0.0)).scores
    assert (np.diff(scores) <= 0).all()


def test_a_request_history_replaces_the_stored_one(cascade: Cascade) -> None:
    own = Request(user_id=b"user-0", history=(b"item-3", b"item-9", b"item-200"))
    assert _one(cascade, own).item_ids != _one(cascade, Request(user_id=b"user-0")).item_ids
    assert not {b"item-3", b"item-9", b"item-200"} & set(_one(cascade, own).item_ids)


def test_excluded_items_never_come_back(cascade: Cascade) -> None:
    first = _one(cascade, Request(user_id=b"user-0", k=50)).item_ids
    second = _one(cascade, Request(user_id=b"user-0", k=50, exclude=(*first, b"no such item"))).item_ids
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(user_id=b"nobody"),
        Request(history=(b"no such item",)),
        Request(user_id=b"user-0", history=(b"no such item",)),
    ],
    ids=["anonymous", "unknown user", "unknown items", "known user, unknown items"],
)
def test_cold_starts_get_what_is_popular(cascade: Cascade, request_: Request) -> None:
    slate = _one(cascade, request_)
    assert len(slate.item_ids) == 10
    assert slate.status == "full"
    popular = {cascade.catalog.ids.id(int(row)) for row in cascade.popularity.rows[0, :40]}
    assert set(slate.item_ids) <= popular


def test_popularity_follows_the_context(cascade: Cascade) -> None:
    at_one = _one(cascade, Request(context={"hour": 1}, diversity=0.0))
    assert at_one.item_ids[0] == cascade.catalog.ids.id(int(cascade.popularity.rows[2, 0]))


def test_a_bad_request_fails_alone(cascade: Cascade) -> None:
    requests = [
        Request(user_id=b"user-0"),
        Request(context={"planet": "mars"}),
        Request(deadline_unix_us=1),
        Request(user_id=b"user-1"),
    ]
    answers = cascade.recommend(requests)
    assert [type(a) for a in answers] == [Slate, RequestError, DeadlineError, Slate]
    assert "planet" in str(answers[1])


def test_company_and_order_change_nothing(cascade: Cascade) -> None:
    requests = [Request(user_id=f"user-{u}".encode(), k=5 + u, diversity=u / 40) for u in range(30)]
    together = cascade.recommend(requests)
    backwards = cascade.recommend(requests[::-1])[::-1]
    alone = [cascade.recommend([r])[0] for r in requests]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert isinstance(a, Slate)
        assert isinstance(b, Slate)
        assert isinstance(c, Slate)
        assert a.item_ids == b.item_ids == c.item_ids
        np.testing.assert_allclose(a.scores, c.scores, rtol=1e-5)


def test_a_tight_deadline_leaves_stages_out(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    cascade.costs.stages["rank"] = DEAR
    soon = time.time_ns() // 1000 + 60_000_000
    slate = _one(cascade, Request(user_id=b"user-0", deadline_unix_us=soon, trace=True))
    assert slate.status == "no_rank"
    assert slate.trace is not None
    assert [s["stage"] for s in slate.trace["stages"]] == ["users", "retrieve", "filter", "diversify"]
    cascade.costs.stages["filter"] = DEAR
    assert _one(cascade, Request(user_id=b"user-0", deadline_unix_us=soon)).status == "no_filter"
    cascade.costs.stages["retrieve"] = DEAR
    assert _one(cascade, Request(user_id=b"user-0", deadline_unix_us=soon)).status == "fallback"


def test_warming_up_measures_every_stage(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    assert set(cascade.costs.stages) == {"users", "retrieve", "filter", "rank", "diversify"}
    assert 0 < cascade.costs.seconds(Effort("full", 1.0), 1) < 0.5


def test_load_makes_the_effort_lighter(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    cascade.costs.stages = {"rank": StageCost(0.0, 0.01)}
    cascade.costs.batch_seconds = 0.1
    slates = [_one(cascade, Request(user_id=b"user-0", trace=True))]
    slates += [a for a in cascade.recommend([Request(user_id=b"user-0", trace=True)] * 12) if isinstance(a, Slate)]
    assert [s.status for s in slates] == ["full"] * 13
    assert [s.trace and s.trace["effort"]["share"] for s in slates] == [1.0] + [0.5] * 12


def test_nobody_waits_for_the_fuller_answer_of_another(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    cascade.costs.stages["retrieve"] = DEAR
    soon = time.time_ns() // 1000 + 60_000_000
    answers = cascade.recommend([Request(user_id=b"user-0"), Request(user_id=b"user-0", deadline_unix_us=soon)])
    assert [a.status for a in answers if isinstance(a, Slate)] == ["fallback", "fallback"]


def test_an_answer_that_can_only_arrive_late_is_refused(cascade: Cascade) -> None:
    soon = time.time_ns() // 1000 + 300_000

    def dawdle(*_: object) -> None:
        time.sleep(0.1)

    cascade.observer = dawdle
    answer = cascade.recommend([Request(user_id=b"user-0", deadline_unix_us=soon)])[0]
    cascade.observer = None
    assert isinstance(answer, DeadlineError)


def test_a_cold_start_has_nothing_to_leave_out(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    cascade.costs.stages["rank"] = DEAR
    soon = time.time_ns() // 1000 + 60_000_000
    assert _one(cascade, Request(deadline_unix_us=soon)).status == "full"


def test_the_trace_tells_every_stage_and_rank(cascade: Cascade) -> None:
    trace = _one(cascade, Request(user_id=b"user-0", trace=True)).trace
    assert trace is not None
    assert [s["stage"] for s in trace["stages"]] == ["users", "retrieve", "filter", "rank", "diversify"]
    assert [(s["in"], s["out"]) for s in trace["stages"][1:]] == [(300, 100), (100, 40), (40, 40), (40, 10)]
    for slot, item in enumerate(trace["items"]):
        assert item["slot"] == slot + 1
        assert set(item["ranks"]) == {"retrieve", "filter", "rank", "diversify"}
        assert 1 <= item["ranks"]["filter"] <= 40


def test_a_small_catalogue_answers_with_what_it_has(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", items=45))
    slate = _one(cascade, Request(history=(b"item-1",), k=50, trace=True))
    assert len(slate.item_ids) == 44
    assert slate.trace is not None
    assert [item["ranks"]["diversify"] for item in slate.trace["items"]] == list(range(1, 45))


def test_who_excludes_everything_gets_an_empty_slate(cascade: Cascade) -> None:
    everything = tuple(cascade.catalog.ids.id(row) for row in range(len(cascade.catalog)))
    slates = cascade.recommend([Request(user_id=b"user-0", exclude=everything), Request(), Request(exclude=everything)])
    assert [len(s.item_ids) for s in slates if isinstance(s, Slate)] == [0, 10, 0]


def test_a_cap_on_groups_holds_for_known_users_and_cold_starts(tmp_path: Path) -> None:
    """Thirty groups: with one item of each, fifty cannot be had."""
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", group_by="maker", max_per_group=1))
    groups = cascade.diversify.groups
    assert groups is not None
    for user in (b"user-0", b""):
        rows = cascade.catalog.ids.rows(_one(cascade, Request(user_id=user, k=50)).item_ids)
        assert 10 < len(rows) <= 30
        assert len(set(groups[rows].tolist())) == len(rows)


def test_after_warming_up_no_request_compiles(path: Path) -> None:
    cascade = Cascade.load(path)
    cascade.warm_up()
    compiled = (
        *(catalog._find_all, catalog._gather, best._take, diversify._relevance),
        *(fusion.add, fusion.neighbours, fusion.distinct, fusion.pool_of, fusion.choose_from, fusion.clear),
    )
    known = [len(function.signatures) for function in compiled]
    soon = time.time_ns() // 1000 + 60_000_000
    requests = [Request(user_id=b"user-0"), Request(exclude=(b"item-1",), k=50), Request(history=(b"item-1",))]
    for stage in ("nothing", "rank", "filter", "retrieve"):
        cascade.costs.stages[stage] = DEAR
        cascade.recommend([replace(r, deadline_unix_us=soon) for r in requests])
    assert [len(function.signatures) for function in compiled] == known


def test_exploration_is_reported(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", exploration=0.5), seed=3)
    slate = _one(cascade, Request(user_id=b"user-0"))
    assert len(set(slate.item_ids)) == 10
    assert (slate.propensities < 1).all()


def test_a_trace_shows_what_exploration_brought_in(tmp_path: Path) -> None:
    cascade = Cascade.load(make_bundle(tmp_path / "bundle", exploration=0.9), seed=3)
    trace = _one(cascade, Request(user_id=b"user-0", trace=True)).trace
    assert trace is not None
    assert all(item["ranks"]["rank"] <= 40 for item in trace["items"])
    assert any("diversify" not in item["ranks"] for item in trace["items"])


def test_the_catalogue_is_mapped_not_copied(path: Path) -> None:
    catalog = Catalog.load(Bundle.open(path))
    assert isinstance(catalog.table.base, np.memmap)
    assert isinstance(IdMap.load(Bundle.open(path), "item").blob.base, np.memmap)


@pytest.mark.parametrize(
    ("name", "content"),
    [("layout.json", "{}"), ("scales.json", "[]"), ("index.faiss", "garbage"), ("ranker.onnx", "garbage")],
)
def test_a_bundle_whose_parts_do_not_fit_is_refused(path: Path, tmp_path: Path, name: str, content: str) -> None:
    """Checksums tell that nothing changed since it was written, not that what was written makes sense."""
    broken = shutil.copytree(path, tmp_path / "bundle")
    (broken / name).write_text(content)
    (broken / MANIFEST).unlink()
    _write_manifest(broken, Bundle.open(path).metadata)
    with pytest.raises(BundleError):
        Cascade.load(broken)
