"""What a run holds is read back, or its damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.errors import BundleError
from shortlist.evaluation.subjects import load_parity


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_damaged_record_of_the_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(BundleError, match=r"run\.json: is missing or damaged"):
        load_parity(tmp_path)
