#!/usr/bin/env bash
# From a base model to one that taught itself to reason, on this machine.
# Flags pass through: bash launch/quickstart.sh --seed=1
set -euo pipefail
source "$(dirname "$0")/env.sh"
exec python -m experiments.quickstart "$@"
