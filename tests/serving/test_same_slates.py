"""Through Triton comes what the cascade answers in process: identical slates for 200 users of a trained run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.cascade import Cascade
from shortlist.serving.client import Client
from shortlist.serving.process import free_address
from shortlist.serving.repository import build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.types import Request, Slate


def test_200_users_get_the_same_slates(planted_run: Path, tmp_path: Path) -> None:
    build_repository(planted_run / "bundle", tmp_path / "repository")
    users = [f"user{u}" for u in range(200)]
    expected = Cascade.load(planted_run / "bundle").recommend([Request(user_id=u.encode()) for u in users])
    address = free_address()
    with Supervisor(tmp_path / "repository", address, instances=1), Client(address.grpc) as client:
        for user, slate in zip(users, expected, strict=True):
            answer = client.recommend(user)
            assert isinstance(slate, Slate)
            assert answer.ids == [i.decode() for i in slate.item_ids]
            assert [item.score for item in answer] == pytest.approx(slate.scores.tolist(), rel=1e-5)
            assert np.array_equal([item.propensity for item in answer], slate.propensities)
