#!/usr/bin/env bash
# Runs a command on every host of a TPU slice that is there already:
#   TPU=NAME ZONE=us-east5-a bash launch/tpu_pod.sh \
#     python -m experiments.train_grpo --workdir=gs://BUCKET/runs/zero
# This repository, as it is here, is copied to r1jax/ in each host's home; the
# first time its .venv is made there. JAX learns from the TPU VM's metadata who
# the others are. --workdir must be a bucket. The same command resumes. To stop
# a run so that it saves first:
#   TPU=NAME ZONE=us-east5-a bash launch/tpu_pod.sh pkill -TERM -f experiments
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# = 0 ] || [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then
  echo "usage: TPU=NAME ZONE=ZONE bash launch/tpu_pod.sh COMMAND..." >&2
  exit 2
fi
archive=$(mktemp "${TMPDIR:-/tmp}/r1jax.XXXXXX")
trap 'rm -f "$archive"' EXIT
git ls-files -z --cached --others --exclude-standard |
  tar --create --gzip --file "$archive" --null --ignore-failed-read \
    --files-from -
gcloud compute tpus tpu-vm scp "$archive" "$TPU:r1jax.tgz" \
  --zone="$ZONE" --worker=all
# printf quotes each word for the shell at the other end.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  mkdir -p r1jax && tar -xzf r1jax.tgz -C r1jax && cd r1jax &&
  source launch/env.sh && exec$(printf ' %q' "$@")"
