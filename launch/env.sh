# Sourced by the other scripts here, and in a terminal (bash or zsh): enters the
# repository, makes .venv if it is missing or setup.py has changed, and activates
# it. It does not change the shell's options, so that an error does not close the
# terminal. A .venv that it did not make is used if it has pip, and never
# removed. Copied out of a wheel (r1jax files --to=DIR) it stays in the current
# folder and uses the python of PATH.
#   PYTHON=python3.12   the interpreter to make .venv with
#   R1JAX_JAX=jax       what to install JAX as, e.g. jax[cuda12] or jax[tpu]
#   R1JAX_EXTRA=test    an extra of setup.py to install as well
#   R1JAX_VENV=none     use the python of PATH unchanged (in a container)

# In zsh, $0 is the sourced file.
top=$(cd -P "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd) || return
if grep -qs 'name="r1jax"' "$top/setup.py"; then
  cd "$top" || return
else
  R1JAX_VENV=none  # r1jax is installed, and this is not a clone of it
fi

found() {  # whether a file matches this pattern
  bash -c 'compgen -G "$1"' found "$1" >/dev/null
}

jax_for_this_machine() {
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    local driver
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader |
      head -n 1 | cut -d. -f1)
    # CUDA 13 needs driver 580 or later.
    if [ "${driver:-0}" -ge 580 ]; then
      echo "jax[cuda13]"
    else
      echo "jax[cuda12]"
    fi
  elif found "/dev/accel[0-9]*" ||
    { found "/dev/vfio/[0-9]*" &&
      grep -qs "^0x1ae0$" /sys/bus/pci/devices/*/vendor; }; then
    echo "jax[tpu]"  # a TPU VM: PCI vendor 1ae0 is Google
  else
    echo "jax"
  fi
}

make_venv() {
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "r1jax needs Python 3.11 or later; $python is" \
      "$("$python" --version 2>&1 || true). Set PYTHON=python3.11 or later." >&2
    return 1
  fi
  if .venv/bin/python -m pip --version >/dev/null 2>&1 &&
    grep -qsF "$PWD/.venv" .venv/bin/activate; then
    return 0
  fi
  # One that this script made is made again, after an interruption or a move;
  # another one belongs to somebody.
  if [ -L .venv ] || { [ -e .venv ] && [ ! -e .venv/r1jax-made ]; }; then
    echo "$PWD/.venv was not made by launch/env.sh, and has no pip (as those of" \
      "uv) or was made for another folder. It is left unchanged: rename or" \
      "remove it, or activate it, install r1jax there (uv pip install -e .)" \
      "and set R1JAX_VENV=none." >&2
    return 1
  fi
  rm -rf .venv
  mkdir .venv && touch .venv/r1jax-made || return
  "$python" -m venv .venv || {
    echo "Could not make .venv; on Debian: apt-get install python3-venv" >&2
    return 1
  }
}

set_up() {
  local jax=${R1JAX_JAX:-$(jax_for_this_machine)} extra=${R1JAX_EXTRA:-} want log
  local stamp=.venv/r1jax-installed
  want="$jax $PWD $(cksum <setup.py)"
  if grep -qsxF "$want" $stamp && grep -qsxF "extra:$extra" $stamp; then
    return 0
  fi
  make_venv || return
  rm -f $stamp
  log=$PWD/.venv/install.log
  echo "Installing $jax and r1jax into .venv (a few minutes; log: $log)" >&2
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --editable ".${extra:+[$extra]}" "$jax" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "Installation failed; the same command tries again." >&2
    return 1
  fi
  # An installation with the extra also serves starts without it.
  printf '%s\n' "$want" "extra:" "extra:$extra" >$stamp
}

if [ "${R1JAX_VENV:-}" != none ]; then
  # One set-up at a time; without flock (macOS) there is no lock.
  (
    if command -v flock >/dev/null; then
      flock --nonblock 9 || { echo "Waiting for another set-up" >&2; flock 9; }
    fi
    set_up
  ) 9<setup.py || return
  # shellcheck disable=SC1091
  source .venv/bin/activate
  # libtpu, which may be installed to compile for TPUs elsewhere, would look for
  # a TPU on this machine and complain.
  if [ -z "${R1JAX_JAX:-}" ] && [ "$(jax_for_this_machine)" = jax ]; then
    export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  fi
fi

# Compiled programs are kept between runs.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/r1jax/xla
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}

# XLA on CPU allocates its buffers anew in every execution, and glibc returns
# large ones to the system each time, so that page faults took most of the time
# of an elementwise operation. Keeping the buffers, in huge pages, made it 5x
# faster; one arena for all threads (others are unmapped when they are empty)
# made a whole update 2x faster (docs/log/core.md). Other C libraries ignore
# this. Where memory is short, unset GLIBC_TUNABLES: commands then keep small
# buffers only (experiments/start.py).
tunables=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1
tunables+=:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=500000000
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-$tunables}
unset -f found jax_for_this_machine make_venv set_up
unset cache tunables top
