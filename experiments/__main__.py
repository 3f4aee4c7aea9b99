"""Runs any experiment: r1jax NAME --flag=value ...

  r1jax                                        # lists them
  r1jax train_grpo --help
  r1jax train_grpo --workdir=runs/zero
  r1jax --version

With r1jax installed, `r1jax NAME` is the same as `python -m experiments.NAME`
in a clone. It sets the environment variables of launch/env.sh. Benchmarks are
started by `python -m r1jax.experiments.benchmarks.NAME`.
"""

from __future__ import annotations

import difflib
import os
import sys

import r1jax

from . import command


def main() -> None:
  """The command line: a name and its flags."""
  name, *flags = sys.argv[1:] or ["--help"]
  experiments = command.names()
  if name in ("help", "--help", "-h"):
    print(f"{__doc__}\n" + "\n".join(
        f"  {name:<18}{line}" for name, line in experiments.items()))
  elif name == "--version":
    print(f"r1jax {r1jax.__version__}")
  elif name in experiments:
    os.execve(sys.executable, [*command.words(name), *flags],
              command.environment())
  else:
    near = difflib.get_close_matches(name, experiments, n=1)
    raise SystemExit(
        f"error: {name} is not an experiment"
        + (f"; did you mean {near[0]}?" if near else "")
        + "\n(r1jax without arguments lists them)")


if __name__ == "__main__":
  main()
