#!/usr/bin/env bash
# Runs a command on every host of an existing TPU slice:
#   TPU=NAME ZONE=us-east5-a bash launch/tpu_pod.sh \
#     python -m experiments.train_grpo --workdir=gs://BUCKET/runs/zero \
#     --micro_rows=32
# --workdir must be a bucket, and --micro_rows a multiple of the number of chips.
# The files of this repository that git tracks are copied, with local changes, to
# r1jax/ in each host's home; untracked files, such as keys and data, are not
# (`git add` what is needed). The first start makes .venv there, with the extra
# gcs for buckets. JAX finds the other hosts in the TPU VM's metadata. The same
# command resumes. To stop the command on every host, after it has saved:
#   TPU=NAME ZONE=us-east5-a bash launch/tpu_pod.sh --stop
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# = 0 ] || [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ]; then
  echo "usage: TPU=NAME ZONE=ZONE bash launch/tpu_pod.sh COMMAND...|--stop" >&2
  exit 2
fi

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="$1"
}

if [ "$*" = --stop ]; then
  # A process id may belong to another process by now, in another folder.
  # shellcheck disable=SC2016
  on_all_hosts 'cd r1jax && for job in .jobs/*; do
    id=${job#.jobs/}
    if [ "$(readlink "/proc/$id/cwd")" = "$(pwd -P)" ]; then
      kill -TERM "$id" && echo "$(uname -n): told $(cat "$job") to stop"
    else
      rm -f "$job"
    fi
  done'
  exit
fi

archive=$(mktemp "${TMPDIR:-/tmp}/r1jax.XXXXXX")
trap 'rm -f "$archive"' EXIT
git ls-files -z --cached |
  tar --create --gzip --file "$archive" --null --ignore-failed-read \
    --files-from -
left=$(git ls-files --others --exclude-standard | wc -l)
[ "$left" = 0 ] ||
  echo "$left untracked files are not copied (git add NAME to copy one)" >&2
gcloud compute tpus tpu-vm scp "$archive" "$TPU:r1jax.tgz" \
  --zone="$ZONE" --worker=all
# printf quotes each word for the remote shell. The command replaces that shell's
# process, so that the shell's process id names the job.
on_all_hosts "
  mkdir -p r1jax/.jobs && tar -xzf r1jax.tgz -C r1jax && cd r1jax &&
  export R1JAX_EXTRA=${R1JAX_EXTRA:-gcs} && source launch/env.sh &&
  echo$(printf ' %q' "$(printf '%q ' "$@")") >.jobs/\$\$ && exec$(printf ' %q' "$@")"
