"""How every experiment starts, and how it ends when something is amiss."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from r1jax.sharding import distributed

# What users can mend: bad input, a full disk, gradients that stay non-finite.
EXPECTED = (ValueError, OSError, FloatingPointError)


def run(main: Callable[[], Any]) -> None:
  """Runs `main` under absl; what users can mend is said without traceback."""
  def wrapped(argv: list[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f"unexpected arguments {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    distributed.initialize()
    try:
      main()
    except EXPECTED as error:
      if os.environ.get("R1JAX_TRACEBACK"):
        raise
      raise SystemExit(
          f"error: {error}\n(R1JAX_TRACEBACK=1 shows where)") from error

  if "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    # Simulated devices: a collective that waits for the others holds a thread,
    # and with one thread a device they can wait for each other for ever.
    os.environ.setdefault("PJRT_NPROC", "64")
  _list_all_flags()
  app.run(wrapped)


def _list_all_flags() -> None:
  """Lets --help list what the experiments declare, wherever they do."""
  for module, found in flags.FLAGS.flags_by_module_dict().items():
    if "experiments" in module:
      for flag in found:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
