"""One YAML becomes one configuration, or an error that names the field, its value and what is allowed."""

from pathlib import Path

import pytest

from shortlist.config import Config
from shortlist.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    assert Config.read(path).cascade.k == 10


def test_written_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    config = Config.parse({"seed": 7, "data": {"source": "sequences", "path": "log.txt"}})
    config.write(tmp_path / "config.yaml")
    assert Config.read(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cascade": {"k": 99}}, r"cascade\.k = 99: Input should be less than or equal to 50"),
        ({"cascade": {"kk": 9}}, r"cascade\.kk = 9: Extra inputs are not permitted"),
        ({"retriever": {"towers": [{"family": "rnn"}]}}, r"retriever\.towers\.0\.family = 'rnn'.*'decay' or 'trans"),
        ({"cascade": {"candidates": 50}}, r"rank_depth is 100; at most cascade\.candidates \(50\)"),
        ({"cascade": {"history": 20}}, r"towers\.0\.history is 50; it must be cascade\.history \(20\)"),
        ({"ranker": {"history": 80}}, r"ranker\.history is 80; at most cascade\.history \(50\)"),
        ({"cascade": {"group_by": "creator"}}, r"group_by is 'creator' and max_per_group is None; both or none"),
        ({"cascade": {"max_per_group": 2}}, r"group_by is None and max_per_group is 2; both or none"),
        ({"cascade": {"group_by": "creator", "max_per_group": 0}}, r"max_per_group = 0: Input should be greater than"),
        ({"cascade": {"diversifier": "magic"}}, r"cascade\.diversifier = 'magic': Input should be 'mmr' or 'dpp'"),
        (["a list"], "Input should be"),
    ],
    ids=[
        "range",
        "unknown key",
        "choice",
        "depths",
        "tower history",
        "ranker history",
        "group alone",
        "cap alone",
        "cap",
        "diversifier",
        "not a mapping",
    ],
)
def test_a_bad_field_is_named(content: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.parse(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        Config.read(tmp_path / "nowhere.yaml")


def test_yaml_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deep\.yaml: not valid YAML: nested too deep"):
        Config.read(tmp_path / "deep.yaml")


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not valid YAML"):
        Config.read(tmp_path / "bad.yaml")
