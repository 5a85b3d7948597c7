"""Puts a bundle into a repository that is being served: tried out, published as the next version, then waited for.

Writing a version is the business of `repository`, loading it of the supervisor. Whatever fails on the way, the version
before goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from shortlist.bundle import Bundle
from shortlist.errors import BundleError, ConfigError, ServerError
from shortlist.serving.model_config import device_of
from shortlist.serving.rehearsal import rehearse
from shortlist.serving.releases import REFUSED, bundle_of, current, earlier, releases, remove, republish
from shortlist.serving.repository import GpuOptions, build_repository
from shortlist.serving.status import statuses
from shortlist.serving.tensors import CASCADE, ENSEMBLE
from shortlist.serving.versions import check_repository

PATIENCE = 1800.0  # seconds that a server may take to load a version, and to build its plans before that

Tell = Callable[[str], None]


def deploy(bundle_path: Path, repository: Path, tell: Tell) -> int:
    """Publish a bundle as the repository's next version once it proved itself, and wait until all servers serve it.

    Returns the number; that of the newest version, when it holds this bundle already. Raises BundleError for a bundle
    that is damaged or answers otherwise than after training, ConfigError for one that callers cannot use as they do
    now or that the disk has no room for, ServerError when a server refuses it.
    """
    check_repository(repository, [CASCADE.name])
    bundle, held = Bundle.open(bundle_path), releases(repository)
    _check_against(bundle, bundle_of(repository, current(held).number), tell)
    tell(f"bundle {bundle.version}: {rehearse(bundle_path)}")
    if held[0].state == REFUSED and held[0].bundle == bundle.version:
        remove(repository, held[0].number)  # it gets another chance
    target = device_of(repository / CASCADE.name / "config.pbtxt")
    gpu = _as_held(repository, tell) if target == "gpu" else None
    stages = (repository / ENSEMBLE.name).exists()
    number = int(build_repository(bundle_path, repository, target, stages=stages, gpu=gpu).name)
    tell(f"published as version {number}" if number > held[0].number else f"version {number} holds it already")
    wait_until_served(repository, number, tell)
    return number


def roll_back(repository: Path, number: int | None, tell: Tell) -> int:
    """Publish version `number` again, as the next one, and wait until all servers serve it; returns the new number.

    By default that is the newest before the current one with another bundle. Raises ConfigError where there is none,
    BundleError when it is damaged, ServerError when a server refuses it.
    """
    check_repository(repository, [CASCADE.name])
    held = releases(repository)
    known = {release.number: release for release in held}
    if number is not None and number not in known:
        numbers = ", ".join(map(str, sorted(known)))
        raise ConfigError(f"VERSION = {number}: {repository} holds {numbers}; see `shortlist versions {repository}`")
    chosen = earlier(repository, held) if number is None else known[number]
    Bundle.open(bundle_of(repository, chosen.number))
    new = held[0].number + 1
    republish(repository, chosen.number, new)
    tell(f"published version {chosen.number} (bundle {chosen.bundle}) again, as version {new}")
    wait_until_served(repository, new, tell)
    return new


def wait_until_served(repository: Path, number: int, tell: Tell) -> None:
    """Until every server that runs over the repository now serves version `number` or a newer one.

    Raises ServerError when one refuses it, ends, or takes longer than PATIENCE.
    """
    waiting = {status.address for status in statuses(repository)}
    if not waiting:
        tell(f"no server runs over {repository}; the next one will serve version {number}")
    until = time.monotonic() + PATIENCE
    while waiting:
        said = {status.address: status for status in statuses(repository)}
        for address in sorted(waiting):
            if address not in said:
                raise ServerError(f"{address}: the server ended before it served version {number}")
            status = said[address]
            if refusal := status.refused.get(str(number)):
                goes_on = f"version {status.serving} goes on" if status.serving else "it serves none"
                raise ServerError(f"{address} refused version {number}, {goes_on}: {refusal.why}")
            if int(status.serving or 0) >= number:
                tell(f"{address} serves version {status.serving}")
                waiting.remove(address)
        if time.monotonic() > until:
            raise ServerError(
                f"{', '.join(waiting)}: does not serve version {number} after {PATIENCE:g} s; see its log"
            )
        time.sleep(0.1)


def check_compatible(new: Bundle, old: Bundle) -> None:
    """Raise ConfigError when a request that is right for the bundle `old` would be refused by `new`."""
    had, has = request_schema(old), request_schema(new)
    for field, kind in had.items():
        if has.get(field) != kind:
            now = f"is of kind {has[field]}" if field in has else "is not known"
            raise ConfigError(
                f"{new.path}: {field} {now}, and of kind {kind} in the bundle that is served; requests that send it "
                "would be refused. Change the callers first, then publish with `shortlist export`, which does not ask"
            )


def request_schema(bundle: Bundle) -> dict[str, str]:
    """Kind of every field that requests may send because the bundle knows it: of contexts, and of items' attributes."""
    parts = {"context": bundle.document("features")["context"]}
    if bundle.has("attributes.json"):
        parts["eligible"] = bundle.document("attributes")
    return {f"{part}.{field['name']}": str(field["kind"]) for part, fields in parts.items() for field in fields}


def _check_against(bundle: Bundle, held: Path, tell: Tell) -> None:
    try:
        check_compatible(bundle, Bundle.open(held, verify=False))
    except BundleError as error:
        tell(f"whether callers can go on as they do is not checked: {error}")


def _as_held(repository: Path, tell: Tell) -> GpuOptions:
    """A GPU's options as the repository has them; plans are left to the servers, which build them before loading."""
    from shortlist.serving.plans import held_precisions

    return GpuOptions(held_precisions(repository), None, tell=tell)
