"""A run that trains nothing, for what a Session does around a loop.

  python -m tests.stages.loop.toy WORKDIR

says WRITING when only the last checkpoint is left to write, and writes it when
it gets a line.
"""

import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments import start
from r1jax.checkpoint.manager import Manager
from r1jax.core.types import TokenBatch
from r1jax.stages.loop.session import Session
from tests.stages import cases

ROWS = np.arange(6, dtype=np.int32).reshape(2, 3)


def batch(step):
  return TokenBatch(tokens_BT=ROWS + step, targets_BT=ROWS,
                    segments_BT=ROWS, positions_BT=ROWS,
                    mask_BT=ROWS.astype(np.float32))


def opened(workdir, total=4, save_every=2, **settings):
  return Session(workdir, {"toy": True, "steps": total}, cases.tokenizer(),
                 title="toy", total=total, save_every=save_every,
                 shown=("loss",), **settings)


def state(step=0):
  return {"w": jnp.full((2, 3), float(step)), "key": jax.random.key(step)}


def numbers(step, skipped=0.0, **more):
  return {"loss": 1.0 / step, "skipped": skipped, **more}


def finish(session, step, metrics=None, dumped=None):
  """Ends a step whose metrics come as a function."""
  return session.finish(
      step, metrics or (lambda: numbers(step)),
      dumped or (lambda: batch(step)), lambda: state(step),
      lambda: {"at": step})


def train(workdir, **settings):
  """To the end, or to a signal; returns the session."""
  session = opened(workdir, **settings)
  arrays, host = session.restore(state(), {"at": 0})
  assert host["at"] == session.step
  assert float(arrays["w"][0, 0]) == session.step
  with session:
    for step in range(session.step, session.total):
      if finish(session, step + 1):
        break
  return session


def _main():
  workdir = sys.argv.pop()
  closing, close = threading.Event(), Manager.close
  finalize = ocp.PyTreeCheckpointHandler.finalize

  def told(self):
    closing.set()
    close(self)

  def held(self, directory):  # in the thread that writes
    if directory.parent.name.startswith("4"):
      closing.wait()
      print("WRITING", flush=True)
      sys.stdin.readline()
    finalize(self, directory)

  Manager.close, ocp.PyTreeCheckpointHandler.finalize = told, held

  def main():
    train(workdir)
    print("ENDED", flush=True)

  start.run(main)


if __name__ == "__main__":
  _main()
