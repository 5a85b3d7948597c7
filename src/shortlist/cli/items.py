"""`shortlist items`: what is on offer now. Servers over the same store take a change in within a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shortlist.cli.options import Profiles
from shortlist.errors import BundleError, DataError, RequestError

if TYPE_CHECKING:
    from shortlist.bundle import Bundle

app = typer.Typer(no_args_is_help=True, help="Take items off offer and bring them back, offer new ones.")
SHOWN = 10  # unknown ids
Ids = Annotated[list[str] | None, typer.Argument(help="Item ids.")]
File = Annotated[Path | None, typer.Option("--file", help="File of item ids, one a line.")]


@app.callback()
def items() -> None:
    """Take items off offer and bring them back, offer new ones."""


@app.command()
def remove(
    profiles: Profiles,
    ids: Ids = None,
    file: File = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle that is served, or its repository: say which ids it does not know.")
    ] = None,
) -> None:
    """Take items out of every slate, within a second, until they are restored.

    Example: shortlist items remove --profiles valkey://127.0.0.1:6379/0 item-17 item-18
    """
    wanted, opened = list(_ids(ids, file)), _open(profiles)
    typer.echo(_told(opened.remove(wanted), len(wanted), "removed", "were removed already"))
    if bundle is not None:
        _, state = opened.state()
        known = {*_known(_bundle(bundle), wanted), *state.added}
        _tell_unknown(sorted({*wanted} - known))


@app.command()
def restore(profiles: Profiles, ids: Ids = None, file: File = None) -> None:
    """Bring removed items back.

    Example: shortlist items restore --profiles valkey://127.0.0.1:6379/0 item-17
    """
    wanted = list(_ids(ids, file))
    typer.echo(_told(_open(profiles).restore(wanted), len(wanted), "restored", "were not removed"))


@app.command()
def add(
    profiles: Profiles,
    file: Annotated[Path, typer.Argument(help="New items: CSV or Parquet as for training, or a JSON object a line.")],
    bundle: Annotated[Path, typer.Option(help="The bundle that is served, or its model repository: it checks them.")],
) -> None:
    """Offer items that the bundle does not know: `item_id` and attributes as in the training data.

    Example: shortlist items add new.jsonl --bundle runs/demo/bundle --profiles valkey://127.0.0.1:6379/0
    """
    from shortlist.data.encoders import FeatureEncoders
    from shortlist.stages.delta import check, require_maps

    opened = _bundle(bundle)
    require_maps(opened)
    group_by = opened.metadata["cascade"].get("group_by")
    encoder = FeatureEncoders.from_document(opened.document("features")).item_encoder
    new: dict[bytes, dict[str, Any]] = {}
    for number, item in _items(file, encoder.schema()):
        item_id = item.pop("item_id", None)
        if not isinstance(item_id, str | int) or isinstance(item_id, bool):
            raise DataError(f"{file}, item {number}: item_id = {item_id!r}: a string is allowed")
        try:
            check(encoder, group_by, item)
        except RequestError as error:
            raise DataError(f"{file}, item {number}: {error}") from None
        new[str(item_id).encode()] = item
    known = _known(opened, list(new))
    told = f"; {len(known):,} are in the bundle already" if known else ""
    added = _open(profiles).add({item_id: item for item_id, item in new.items() if item_id not in known})
    typer.echo(f"{added:,} of {len(new):,} items added{told}")


@app.command()
def forget(
    profiles: Profiles,
    ids: Ids = None,
    file: File = None,
    inside: Annotated[
        Path | None, typer.Option("--in", help="All new items that this bundle, or repository, has.")
    ] = None,
) -> None:
    """Drop what the store keeps of items: new ones are gone, removed ones are back.

    After a deployment with `--in`, so that the store keeps no new items that are not new any more.

    Example: shortlist items forget --in runs/demo/bundle --profiles valkey://127.0.0.1:6379/0
    """
    opened = _open(profiles)
    wanted = list(_ids(ids, file)) if ids or file or inside is None else []
    if inside is not None:
        _, state = opened.state()
        wanted += _known(_bundle(inside), [i for i in state.added if i not in state.removed])
    typer.echo(f"{opened.forget(wanted):,} items forgotten")


@app.command(name="list")
def list_items(
    profiles: Profiles, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Show what is removed and what is new.

    Example: shortlist items list --profiles valkey://127.0.0.1:6379/0 --json
    """
    _, state = _open(profiles).state()
    removed = sorted(i.decode(errors="replace") for i in state.removed)
    added = {i.decode(errors="replace"): dict(item) for i, item in sorted(state.added.items())}
    if as_json:
        return typer.echo(json.dumps({"removed": removed, "added": added}, ensure_ascii=False))
    for item_id in removed:
        typer.echo(f"removed  {item_id}")
    for item_id, item in added.items():
        typer.echo(f"added    {item_id}  {json.dumps(item, ensure_ascii=False)}")
    return typer.echo(f"{len(removed):,} removed, {len(added):,} added")


def _told(done: int, wanted: int, what: str, others: str) -> str:
    return f"{done:,} of {wanted:,} items {what}" + (f"; the others {others}" if done < wanted else "")


def _tell_unknown(ids: list[bytes]) -> None:
    """Ids that are no items now. They may be of the next bundle, so they are removed all the same."""
    if ids:
        shown = ", ".join(i.decode(errors="replace") for i in ids[:SHOWN]) + (" …" if len(ids) > SHOWN else "")
        typer.echo(f"{len(ids):,} are neither in the bundle nor new: {shown}", err=True)


def _open(profiles: str) -> Any:
    from shortlist.events.items import ItemStore

    return ItemStore(profiles, on_broken=lambda _, why: typer.echo(f"passed over: {why}", err=True))


def _ids(ids: list[str] | None, file: Path | None) -> Iterator[bytes]:
    if not ids and file is None:
        raise DataError("no items: name some, or a --file of ids (of `forget`, --in BUNDLE too)")
    yield from (i.encode() for i in ids or ())
    if file is not None:
        yield from (line for line in file.read_bytes().splitlines() if line)


def _items(file: Path, kinds: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each item of a file, as training would read it, with its number from 1."""
    if file.suffix not in (".jsonl", ".ndjson", ".json"):
        yield from enumerate(_table(file, kinds), 1)
        return
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            item = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: is no JSON ({error})") from None
        if item is not None and not isinstance(item, dict):
            raise DataError(f"{file}, line {number}: a JSON object is allowed")
        if item:
            yield number, item


def _table(file: Path, kinds: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from shortlist.data.table import read_items

    table = read_items(file, kinds)
    for item in table.iter_rows(named=True):
        yield {name: value for name, value in item.items() if value is not None}


def _bundle(path: Path) -> Bundle:
    """A bundle, or that of a repository's newest version."""
    from shortlist.bundle import MANIFEST, Bundle
    from shortlist.serving.tensors import CASCADE

    if (path / MANIFEST).exists():
        return Bundle.open(path, verify=False)
    versions = [p for p in (path / CASCADE.name).glob("*/bundle") if p.parent.name.isdecimal()]
    if not versions:
        raise BundleError(f"{path}: is neither a bundle nor a model repository")
    return Bundle.open(max(versions, key=lambda p: int(p.parent.name)), verify=False)


def _known(bundle: Bundle, item_ids: list[bytes]) -> list[bytes]:
    """Those of the ids that the bundle has."""
    from shortlist.catalog import IdMap

    rows = IdMap.load(bundle, "item").rows(item_ids)
    return [item_id for item_id, row in zip(item_ids, rows.tolist(), strict=True) if row >= 0]
