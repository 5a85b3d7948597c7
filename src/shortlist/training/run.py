"""One training run from log to bundle, in a folder that says what made it.

    RUN/config.yaml   the configuration, defaults included
    RUN/dataset/      the interaction log as Parquet
    RUN/models/       the trained torch modules (safetensors + JSON)
    RUN/checkpoints/  of trainings under way; a second `train` goes on from them
    RUN/bundle/       what serving needs
    RUN/run.json      fingerprints, training reports, parity of the exported graphs

Each stage's own training is in a file of its own; evaluation only reads what lies here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from shortlist.bundle import Bundle
from shortlist.config import Config, Protocol, SplitConfig
from shortlist.data.dataset import Dataset, load_dataset
from shortlist.data.features import Features, fit_features
from shortlist.data.splits import Split, make_split
from shortlist.errors import BundleError, ConfigError, ShortlistError
from shortlist.training.neighbours import fingerprint
from shortlist.types import Int64

_console = Console(stderr=True)


def train(config: Config, run: Path, *, show_progress: bool = True) -> Path:
    """Train every stage and write the bundle; returns `run`. A finished run of the same configuration, data and
    version is left as it is, an unfinished one goes on, and one of another configuration is replaced.

    Raises DataError for an unusable log, ConfigError when `run` holds something that is no run, or when the
    configuration names an item attribute that the data do not have.
    """
    from shortlist.training.assemble import assemble
    from shortlist.training.attributes import item_attributes
    from shortlist.training.groups import item_groups
    from shortlist.training.stages import train_stages

    dataset = load_dataset(config.data)
    identity = _identity(config, dataset)
    if _finished(run, identity):
        _console.print(f"{run}: trained already, nothing has changed")
        return run
    split = split_of(config, dataset)
    item_groups(dataset, config.cascade.group_by)  # both raise before anything is trained
    item_attributes(dataset.items, dataset.item_attributes, config.cascade.eligibility)
    _begin(run, config, dataset, identity)
    started = time.perf_counter()
    features = fit_features(dataset, split)
    trained, reports, parity = train_stages(config, split, features, run, show_progress=show_progress)
    facts = {**identity, "name": run.name, "title": dataset.title, "protocol": split.protocol}
    assemble(run / "bundle", config, dataset, split, trained, facts)
    seconds = time.perf_counter() - started
    _write_json(run / "run.json", {**identity, "seconds": seconds, "reports": reports, "parity": parity})
    _console.print(f"{run}: trained in {seconds:.0f} s")
    return run


def ensure_run(run: Path, protocol: Protocol) -> Path:
    """The run itself if it was trained under `protocol`, else its sibling in RUN/protocols, trained when absent.

    A model must not have been trained on the events it is asked to predict, and every protocol holds out others.
    """
    config = load_config(run)
    if config.split.protocol == protocol:
        return run
    sibling = config.model_copy(update={"split": SplitConfig(protocol=protocol)})
    return train(sibling, run / "protocols" / protocol)


def load_config(run: Path) -> Config:
    """The configuration of a run. Raises BundleError when the folder holds none."""
    if not (run / "config.yaml").exists():
        raise BundleError(f"{run}: is not a run (no config.yaml); make one with `shortlist train`")
    return Config.read(run / "config.yaml")


def load_split(run: Path) -> tuple[Split, Features]:
    """The run's split and features, made again from its own data set: items as its models know them."""
    dataset = Dataset.load(run / "dataset")
    split = split_of(load_config(run), dataset)
    return split, fit_features(dataset, split)


def order_in_bundle(run: Path) -> Int64:
    """The item, as the models of a run know it, that each row of its bundle stands for: [N].

    Raises BundleError where the run has no bundle.
    """
    ids = pl.read_parquet(run / "dataset" / "items.parquet", columns=["item_id"]).with_row_index("row")
    served = pl.read_parquet(Bundle.open(run / "bundle").file("items.parquet"), columns=["item_id"])
    return served.join(ids, on="item_id", how="left", maintain_order="left")["row"].to_numpy().astype(np.int64)


def load_served_split(run: Path) -> tuple[Split, Features]:
    """The same split and features, with items as the run's bundle numbers them."""
    (split, features), order = load_split(run), order_in_bundle(run)
    content, known = features.item_content[order], features.item_features[order]
    return split.reordered(order), replace(features, item_content=content, item_features=known)


def split_of(config: Config, dataset: Dataset) -> Split:
    """The split that `config` asks for."""
    settings = config.split
    return make_split(
        dataset.log(),
        settings.protocol,
        config.seed,
        test_share=settings.test_share,
        cold_share=settings.cold_share,
    )


def _identity(config: Config, dataset: Dataset) -> dict[str, str]:
    settings = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    identity = {"config": settings, "data": dataset.fingerprint(), "shortlist": version("shortlist")}
    return identity | ({"neighbours": fingerprint(config)} if any(c.path for c in config.retriever.linear) else {})


def _finished(run: Path, identity: dict[str, str]) -> bool:
    try:
        recorded = json.loads((run / "run.json").read_text(encoding="utf-8"))
        Bundle.open(run / "bundle")
    except (OSError, ValueError, ShortlistError):
        return False
    return all(recorded.get(key) == value for key, value in identity.items())


def _begin(run: Path, config: Config, dataset: Dataset, identity: dict[str, str]) -> None:
    """Lay out the folder; what another configuration or other data left there is dropped."""
    begun = run / "begun.json"
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--run = {run}: it is a file; a folder is allowed")
    if run.exists() and not begun.exists() and any(run.iterdir()):
        raise ConfigError(f"--run = {run}: holds files but no run; a new, empty, or earlier run's folder is allowed")
    if _read_json(begun) != identity:
        for stale in ("checkpoints", "models", "bundle", "protocols", "evaluation"):
            shutil.rmtree(run / stale, ignore_errors=True)
        (run / "run.json").unlink(missing_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    _write_json(begun, identity)  # first, so that a folder is known as a run whenever training is interrupted
    config.write(run / "config.yaml")
    dataset.save(run / "dataset")


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=asdict), encoding="utf-8")
