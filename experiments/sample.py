"""Answers typed questions in the terminal, with the thought.

  python -m experiments.sample --init=orbax:runs/quickstart/seed_0/train

With --risk.reviewer answers are under risk control: an answer that breaks a
rule is replaced before it is shown (--risk.stream=hold) or afterwards
(retract).
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator

import jax
from absl import flags

from r1jax.core import keys
from r1jax.core.prompt import ask
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.safety.risk_control import RiskControl
from r1jax.stages import answering, evaluating

from . import asking, common, flagset, risk, start

SAMPLING = flagset.define(SamplingConfig(
    temperature=0.6, top_p=0.95, max_new_tokens=96))
TEMPLATE = flags.DEFINE_string("template", "", asking.TEMPLATE)
QUESTION = flags.DEFINE_string(
    "question", "", "Answer this question and exit; default: read questions"
    " from the terminal.")
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the samples.", lower_bound=0)


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
  template = asking.template(TEMPLATE.value)
  policy, tokenizer = common.policy(
      SEED.value, common.mesh(), computing=True)
  tokenizer = common.settled(tokenizer, template)
  sampling = dataclasses.replace(SAMPLING.value(), vocab=tokenizer.vocab_size)
  engine = Engine(policy.model, sampling, tokenizer.eos_ids)
  policy = policy._replace(
      params=evaluating.laid_out(policy, engine, donate=True))
  control = risk.control()
  for number, question in zip(itertools.count(), questions()):
    key = keys.fold(jax.random.key(SEED.value), number)
    for text in shown(control, question, answering.stream(
        engine, policy, tokenizer, question, template, key)):
      sys.stdout.write(text)
      sys.stdout.flush()
    print()
  for line in control.lines() if control else []:
    print(line, flush=True)


def shown(control: RiskControl | None, question: str, pieces: Iterator[str]
          ) -> Iterator[str]:
  """Streams the text that the terminal shows."""
  if control is None:
    yield from pieces
    return
  for part in control.stream(ask(question), pieces):
    yield f"\n[retracted] {part.text}" if part.retracts else part.text


if __name__ == "__main__":
  start.run(main)
