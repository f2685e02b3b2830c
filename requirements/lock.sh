#!/bin/sh
# Resolves pyproject.toml into the three lock files, for every Python and platform at once, with the uv version in $1.
set -eu
tool=build/lock
python3 -m venv "$tool"
"$tool/bin/python" -m pip install --quiet "uv==$1"
compile() {
    output=$1
    shift
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade \
        "$@" --output-file "$output"
}
compile requirements/runtime.lock pyproject.toml
compile requirements/dev.lock pyproject.toml --group dev --constraint requirements/runtime.lock
compile requirements/servers.lock --group local --no-deps
