#!/usr/bin/env bash
# Starts a command as N processes on this machine's CPU, joined by JAX's own
# distributed runtime:
#   bash launch/local.sh 2 -- python -m experiments.train_grpo --workdir=runs/x
# Process 0 writes to this terminal, the others to files. Ctrl-C and SIGTERM go
# to all processes; the third signal kills them. When one process fails, the
# others get time to report the loss and are then killed; the exit status is that
# of the first that failed.
#   DEVICES=2   simulated devices of each process
#   LOGS=DIR    folder for process_1.log, process_2.log, ...; default a new one
#   GRACE=90    seconds that the others get when one fails; they need 15 more than
#               --distributed.heartbeat_timeout
set -euo pipefail
source "$(dirname "$0")/env.sh"

pids=()
send() {  # a signal to all processes and their children
  for pid in "${pids[@]}"; do
    kill -s "$1" -- "-$pid" 2>/dev/null || true
  done
}

signals=0
# shellcheck disable=SC2329  # the traps call it
forward() {
  signals=$((signals + 1))
  if [ "$signals" -gt 2 ]; then send KILL; else send "$1"; fi
}

start() {  # starts the command as $1 processes
  local count=$1 port i
  shift
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  if [ -n "${DEVICES:-}" ]; then
    XLA_FLAGS+=" --xla_force_host_platform_device_count=$DEVICES"
    export XLA_FLAGS
  fi
  port=$(python -c 'import socket
with socket.socket() as free:
  free.bind(("localhost", 0))
  print(free.getsockname()[1])')
  export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count
  trap 'forward INT' INT
  trap 'forward TERM' TERM
  trap 'send KILL' EXIT
  set -m  # each in a process group of its own, so that it gets a signal once
  for ((i = 0; i < count; i++)); do
    if [ "$i" = 0 ]; then
      JAX_PROCESS_ID=$i "$@" </dev/null &
    else
      JAX_PROCESS_ID=$i "$@" </dev/null >"$logs/process_$i.log" 2>&1 &
    fi
    pids+=($!)
  done
  set +m
}

ended() {  # says how process $1 failed, with status $2
  local how="ended with status $2"
  if [ "$2" -gt 128 ]; then
    how="was ended by signal $(($2 - 128))"
  fi
  echo "process $1 of ${#pids[@]} on $(uname -n) $how" >&3
  if [ "$1" -gt 0 ]; then
    tail -n 20 "$logs/process_$1.log" | sed "s/^/[$1] /" >&3
  fi
}

follow() {  # waits for all; returns the status of the first that failed
  local status=0 deadline=0 code i left running=("${!pids[@]}")
  exec 3>&2 2>/dev/null  # bash would print "Killed" for every process
  while [ "${#running[@]}" -gt 0 ]; do
    sleep 0.2 || true
    left=()
    for i in "${running[@]}"; do
      if kill -0 "${pids[i]}"; then
        left+=("$i")
        continue
      fi
      code=0
      wait "${pids[i]}" || code=$?
      if [ "$code" != 0 ] && [ "$status" = 0 ]; then
        # After a signal, 75 means that the process has saved.
        if [ "$code" != 75 ] || [ "$signals" = 0 ]; then ended "$i" "$code"; fi
        status=$code
        deadline=$((SECONDS + ${GRACE:-90}))
      fi
    done
    running=(${left[@]+"${left[@]}"})
    if [ "$status" != 0 ] && [ "$SECONDS" -ge "$deadline" ]; then
      send KILL
    fi
  done
  return "$status"
}

# A group is read as a whole, so that this file may change during the run.
{
  if ! [[ ${1:-} =~ ^[1-9][0-9]*$ && ${2:-} == -- && $# -gt 2 ]]; then
    echo "usage: bash launch/local.sh N -- COMMAND..." >&2
    exit 2
  fi
  logs=${LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/r1jax.XXXXXX")}
  mkdir -p "$logs"
  if [ "$1" -gt 1 ]; then
    echo "the other processes write to $logs/process_*.log" >&2
  fi
  start "$1" "${@:3}"
  status=0
  follow || status=$?
  exit "$status"
}
