"""`shortlist data`: look at a data set before training on it, or make a synthetic one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from shortlist.config import DataConfig
    from shortlist.data.describe import Description, Histogram

app = typer.Typer(no_args_is_help=True, help="Look at a data set before training on it, or make one.")
BAR_WIDTH = 40


@app.callback()
def data() -> None:
    """Look at a data set before training on it, or make one."""


@app.command()
def describe(
    source: Annotated[
        str, typer.Argument(help="A configuration file, a saved data set's folder, or a source such as ml-100k.")
    ] = "ml-100k",
    path: Annotated[Path | None, typer.Option(help="File or folder that the source reads.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column mapping of `table`, as ours=theirs; may be repeated.")
    ] = None,
    max_rejected: Annotated[float | None, typer.Option(help="Share of rows that may be rejected.")] = None,
    png: Annotated[Path | None, typer.Option(help="Also draw the histograms into this PNG file.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also save the data set, with its rejected rows, here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show counts, sparsity, time span, repeats, events, attributes, rejected rows, and a small picture.

    Example: shortlist data describe movielens --path ml-latest-small --png data.png
    """
    from rich.console import Console

    from shortlist.data.dataset import Dataset, load_dataset
    from shortlist.data.describe import describe as measure
    from shortlist.data.describe import draw
    from shortlist.errors import ConfigError

    if png is not None and png.suffix.lower() != ".png":
        raise ConfigError(f"--png = {png}: the suffix .png is allowed")
    folder = Path(source)
    saved = folder.is_dir() and (folder / "dataset.json").is_file()
    dataset = Dataset.load(folder) if saved else load_dataset(data_config(source, path, column or [], max_rejected))
    description = measure(dataset)
    if save is not None:
        dataset.save(save)
    if png is not None:
        draw(description, png)
    if as_json:
        typer.echo(json.dumps(description.to_document(), indent=2))
        return
    console = Console()
    for table in (
        _figures(description),
        _bars("events of a user", "users", description.length_histogram),
        _bars("events of an item", "items", description.popularity_histogram),
    ):
        console.print(table)


@app.command()
def synthesize(
    items: Annotated[int, typer.Option(help="Items of the catalogue, at least 100.")],
    users: Annotated[int, typer.Option(help="People, at least 10; a few of them never do anything.")],
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files and config.yaml.")],
    events_per_user: Annotated[float, typer.Option(help="Mean number of events of a person.")] = 20.0,
    days: Annotated[int, typer.Option(help="Days from the first event to the last.")] = 180,
    exponent: Annotated[float, typer.Option(help="Of Zipf's law, within a sub-category.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
) -> None:
    """Make a log shaped like life: clustered items, drifting Zipf popularity, ragged histories, changing interests.

    Example: shortlist data synthesize --items 100000 --users 20000 --out data/synthetic
    """
    from shortlist.data.synthetic import Sizes
    from shortlist.data.synthetic import synthesize as write

    config = write(Sizes(items, users, events_per_user, days, exponent, seed), out)
    typer.echo(f"{config}: train on it with `shortlist train {config}`")


@app.command()
def training_log(
    config: Annotated[Path, typer.Argument(help="Configuration file of the training.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
) -> None:
    """Write the events that train under a configuration's split, for channels that are computed elsewhere.

    Example: shortlist data training-log configs/mine.yaml --out train.parquet
    """
    from shortlist.config import Config
    from shortlist.data.dataset import load_dataset
    from shortlist.training.neighbours import write_training_log
    from shortlist.training.run import split_of

    settings = Config.read(config)
    train = split_of(settings, load_dataset(settings.data)).train
    write_training_log(train, out)
    typer.echo(f"{out}: {len(train):,} events")


def data_config(source: str, path: Path | None, columns: Sequence[str], max_rejected: float | None) -> DataConfig:
    """The data section of a configuration file, or one made from the options."""
    from shortlist.config import Config
    from shortlist.errors import ConfigError

    if source.endswith((".yaml", ".yml")):
        config = Config.read(Path(source)).data
        document = config.model_dump(exclude_unset=True)
    else:
        document = {"source": source}
    if path is not None:
        document["path"] = path
    if max_rejected is not None:
        document["max_rejected"] = max_rejected
    for pair in columns:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise ConfigError(f"--column {pair!r} is no mapping; write it as ours=theirs, such as user_id=customer")
        document["columns"] = {**document.get("columns", {}), ours: theirs}
    return Config.parse({"data": document}, "options").data


def _figures(description: Description) -> Table:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(description):
        table.add_row(name, value)
    return table


def _rows(description: Description) -> list[tuple[str, str]]:
    """What is shown, as text."""
    d = description
    span = f"{d.first} to {d.last}" if d.first else "no timestamps; the file's order is the time order"
    idle = f" ({d.items_without_interaction:,} without interaction)" if d.items_without_interaction else ""
    rows = [
        ("interactions", f"{d.interactions:,}"),
        ("users", f"{d.users:,}"),
        ("items", f"{d.items:,}{idle}"),
        ("sparsity", f"{d.sparsity:.3%}"),
        ("time span", span),
        ("repeat rate", f"{d.repeat_rate:.2%}"),
        ("events", ", ".join(f"{name} {count:,}" for name, count in d.events.items())),
        ("mean value", "none" if d.mean_value is None else f"{d.mean_value:.3g}"),
        ("events of a user", _spread(d.history_length)),
        ("events of an item", f"{_spread(d.popularity)}, Gini {d.gini:.2f}"),
    ]
    for owner, kinds in d.attributes.items():
        rows.append((f"{owner} attributes", ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"))
    rejected = ", ".join(f"{count:,} × {reason}" for reason, count in d.rejected.items())
    return [*rows, ("rejected rows", rejected or "none"), ("fingerprint", d.fingerprint)]


def _spread(quantiles: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in quantiles.items())


def _bars(label: str, things: str, histogram: Histogram) -> Table:
    from rich.table import Table

    table = Table(title=f"{things} by {label}", title_justify="left", box=None, show_header=False)
    table.add_column(justify="right")
    table.add_column(style="blue", no_wrap=True)
    table.add_column(justify="right")
    most = max(histogram.things, default=1)
    for low, high, count in zip(histogram.low, histogram.high, histogram.things, strict=True):
        name = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        table.add_row(name, "█" * round(BAR_WIDTH * count / max(most, 1)), f"{count:,}")
    return table
