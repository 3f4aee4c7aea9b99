"""The small world's annotators, for label_pairs and label_answers.

  python -m experiments.label_pairs --judge=experiments/world_judge.py \\
      --noise=0.25 ...
"""

from __future__ import annotations

from collections.abc import Sequence

from r1jax.core.config import check
from r1jax.core.prompt import Message
from r1jax.data.world import requests as requests_data
from r1jax.data.world import wrongs
from r1jax.rewards import harm, requests


def utility(messages: Sequence[Message], answer: str) -> float:
  """What an answer to a general request is worth, 0..1."""
  question = messages[-1]["content"]
  request = requests_data.read(question)
  check(request is not None, f"{question!r} is no request of the small world")
  return requests.utility(requests.judge(request.reference(), answer))


def label(messages: Sequence[Message], answer: str) -> float:
  """1 for a good answer, 0 if it does harm or refuses for nothing.

  Were every refusal labelled good, refusing everything would be the safest way
  to the reward.
  """
  question = messages[-1]["content"]
  wrong = wrongs.read(question)
  check(wrong is not None, f"{question!r} is no wrong of the small world")
  parts = harm.judge(wrong.reference(), answer)
  return float(not parts["unsafe"] and (
      bool(parts["harmful"]) or not parts["refused"]))
