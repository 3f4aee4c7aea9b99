"""The rules by name."""

from __future__ import annotations

from r1jax.rewards import format, math

RULES = {
    "accuracy": math.accuracy,
    "format": format.think_answer,
}
