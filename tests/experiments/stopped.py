"""train_grpo, told to stop whenever it asks."""

from experiments.train_grpo import main  # noqa: F401 - for `calls`
from r1jax.checkpoint import signals

signals.Preemption.requested = lambda self: True
