#!/usr/bin/env bash
# ruff, then the tests that are not marked slow, in two processes.
# Arguments go to pytest: bash launch/test.sh -k rope tests/ops
export R1JAX_EXTRA=${R1JAX_EXTRA:-test}
source "$(dirname "$0")/env.sh"
python -m ruff check .
exec python -m pytest -n 2 --dist worksteal -m "not slow" "$@"
