#!/usr/bin/env bash
# Trains a small base model to reason by RL, on this machine.
# Flags are passed on: bash launch/quickstart.sh --seed=1
set -euo pipefail
source "$(dirname "$0")/env.sh"
exec python -m experiments.quickstart "$@"
