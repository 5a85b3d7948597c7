"""A deployment's own predicate: what items must be in every answer of a version, kept beside that version's bundle.

It is part of the version, so that a rollback brings back the predicate that was served with it, and the stage models
read the same one as `cascade`. What a predicate may say is told in `shortlist.stages.eligibility`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shortlist.bundle import Bundle
from shortlist.errors import ConfigError, RequestError

STANDING = "eligible.json"


def read_standing(version: Path) -> dict[str, Any]:
    """The predicate of a version folder of `cascade`; empty where there is none. Raises ConfigError when damaged."""
    path = version / STANDING
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); export again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is no JSON object; export again")
    return found


def standing_files(eligible: Mapping[str, Any]) -> dict[str, bytes]:
    """The file of a version that keeps `eligible`; none where that allows everything."""
    return {STANDING: json.dumps(eligible, sort_keys=True).encode()} if eligible else {}


def parse_standing(text: str | None) -> dict[str, Any] | None:
    """What `--eligible` says; None where it is not given. Raises ConfigError for what is no JSON object."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--eligible = {text!r}: it is not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--eligible = {text!r}: a JSON object is allowed; {{}} allows everything")
    return found


def check_standing(bundle: Bundle, eligible: Mapping[str, Any]) -> None:
    """Raise ConfigError where `bundle` cannot evaluate `eligible`."""
    from shortlist.stages.eligibility import Eligibility

    try:
        Eligibility(bundle, 0).read(eligible)
    except RequestError as error:
        raise ConfigError(f"--{error} in {bundle.path}; the deployment's own predicate must fit the bundle") from error
