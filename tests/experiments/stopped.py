"""train_grpo, told to stop whenever it asks."""

from experiments.train_grpo import main  # noqa: F401 - for `calls`
from r1jax.stages.loop import signals


def _requested(self, told=signals._told):
  told.set()
  return True


signals.Preemption.requested = _requested
