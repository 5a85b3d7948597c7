#!/bin/sh
# mypy cannot follow the editable install's finder, so it checks an installed wheel in a scratch folder.
set -eu
bin=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$scratch/wheel" .
"$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$scratch/site" "$scratch"/wheel/*.whl
cp pyproject.toml "$scratch/"
cd "$scratch"
MYPYPATH="$scratch/site" "$OLDPWD/$bin/mypy" --config-file pyproject.toml --cache-dir "${MYPY_CACHE_DIR:-$OLDPWD/.mypy_cache}" -p shortlist
