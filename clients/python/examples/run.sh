#!/bin/sh
# One of the example services against a stack started with `make up`:
#   sh clients/python/examples/run.sh flask_service | fastapi_service | openai_compatible
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${EXAMPLES_VENV:-"$here/.venv"}
if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$here/.." -r "$here/requirements.txt"
: "${SERVER_API_KEY:=dev-server-key}"
export SERVER_API_KEY
exec "$venv/bin/python" "$here/$1.py"
