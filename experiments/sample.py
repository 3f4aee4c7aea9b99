"""Type a question, watch the thinking, then the answer.

  python -m experiments.sample --init=orbax:runs/quickstart/train
"""

from __future__ import annotations

import itertools
import sys

import jax
from absl import flags

from experiments import common, flagset, start
from r1jax.core import keys
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import answering, evaluating

SAMPLING = flagset.define(SamplingConfig(
    temperature=0.6, top_p=0.95, max_new_tokens=96))
TEMPLATE = flags.DEFINE_string("template", "", common.TEMPLATE)
QUESTION = flags.DEFINE_string("question", "", "Answer this one and stop.")
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")


def questions():
  """--question, or lines typed until the end of input."""
  if QUESTION.value:
    yield QUESTION.value
    return
  while True:
    try:
      line = input("\nquestion> ").strip()
    except EOFError:
      return
    if line:
      yield line


def main() -> None:
  template = common.template(TEMPLATE.value)
  policy, tokenizer = common.policy(SEED.value, common.mesh())
  tokenizer = common.settled(tokenizer, template)
  engine = Engine(policy.model, SAMPLING.value(), tokenizer.eos_ids)
  policy = policy._replace(
      params=evaluating.laid_out(policy, engine, donate=True))
  for number, question in zip(itertools.count(), questions()):
    key = keys.fold(jax.random.key(SEED.value), number)
    for text in answering.stream(
        engine, policy, tokenizer, question, template, key):
      sys.stdout.write(text)
      sys.stdout.flush()
    print()


if __name__ == "__main__":
  start.run(main)
