#!/bin/sh
# Resolves the project and its Python client into lock files, for every Python and platform at once, with uv $1.
set -eu
tool=build/lock
python3 -m venv "$tool"
"$tool/bin/python" -m pip install --quiet "uv==$1"
compile() {
    output=$1
    shift
    "$tool/bin/uv" pip compile --quiet --universal --generate-hashes --no-header --upgrade \
        "$@" --output-file "$output"
}
compile requirements/runtime.lock --python-version 3.11 pyproject.toml
compile requirements/parquet.lock --python-version 3.11 pyproject.toml --extra parquet --constraint requirements/runtime.lock
compile requirements/tracing.lock --python-version 3.11 pyproject.toml --extra tracing --constraint requirements/runtime.lock
compile requirements/dev.lock --python-version 3.11 pyproject.toml --extra parquet --extra tracing --group dev --constraint requirements/runtime.lock
compile requirements/servers.lock --python-version 3.11 --group local --no-deps
client=clients/python
for environment in dev openai1; do
    compile "$client/requirements-$environment.lock" --python-version 3.10 \
        "$client/pyproject.toml" "$client/requirements-$environment.txt"
done
client=clients/litellm
compile "$client/requirements-dev.lock" --python-version 3.10 "$client/requirements-dev.txt"
