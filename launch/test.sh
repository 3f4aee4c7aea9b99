#!/usr/bin/env bash
# ruff, then the tests that are not marked slow, in two processes.
# Arguments go to pytest: bash launch/test.sh -k rope tests/ops
set -euo pipefail
export R1JAX_EXTRA=${R1JAX_EXTRA:-test}
source "$(dirname "$0")/env.sh"

# bubblewrap, the sandbox of the code rewards, is a system package. Without it
# their tests are skipped; with CI=true they fail.
install_bubblewrap() {
  local root=()
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  command -v apt-get >/dev/null && "${root[@]}" true 2>/dev/null || return 1
  "${root[@]}" apt-get install -y --no-install-recommends bubblewrap ||
    { "${root[@]}" apt-get update &&
      "${root[@]}" apt-get install -y --no-install-recommends bubblewrap; }
}
if ! command -v bwrap >/dev/null; then
  echo "Installing bubblewrap (log: $PWD/.venv/bubblewrap.log)" >&2
  install_bubblewrap >.venv/bubblewrap.log 2>&1 ||
    echo "Could not; on Debian: sudo apt-get install bubblewrap" >&2
fi

# reasoning-gym needs a C compiler: without one its tests are skipped.
if ! python -c 'import importlib.util as u, sys
sys.exit(u.find_spec("reasoning_gym") is None)'; then
  echo "Installing reasoning-gym (log: $PWD/.venv/puzzles.log)" >&2
  python -m pip install --quiet --disable-pip-version-check --editable \
    ".[puzzles]" >.venv/puzzles.log 2>&1 ||
    echo "Could not; on Debian: sudo apt-get install build-essential" >&2
fi

# The tests start many processes, which would compile all of r1jax each time.
unset PYTHONDONTWRITEBYTECODE
python -m ruff check .
exec python -m pytest -n 2 --dist worksteal -m "not slow" "$@"
