"""A tiny policy, questions, and a judge that lives in the test's process."""

import concurrent.futures
import dataclasses
import functools
import zlib

import jax
import numpy as np

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources import arithmetic
from r1jax.data.text.tokenizer import SentencePieceTokenizer
from r1jax.losses.policy import PolicyConfig
from r1jax.models import presets, scalar_head
from r1jax.models.compute import Compute
from r1jax.models.model import build
from r1jax.rewards.combine import Combine
from r1jax.rewards.models import Scorer
from r1jax.rewards.score import Score
from r1jax.stages import evaluating, reward_models, weights
from r1jax.stages.grpo_config import GrpoConfig
from r1jax.stages.judging import Judge
from r1jax.stages.scoring import Scoring
from r1jax.training.optimizer import OptimizerConfig

MIXTURE = dataclasses.replace(
    presets.TINY, vocab_size=512, max_position=256, n_layers=2)
DENSE = dataclasses.replace(
    presets.TINY_DENSE, vocab_size=512, max_position=256, n_layers=2)

REWARDING = {"helpful": dataclasses.replace(DENSE, n_layers=3), "safety": DENSE}
MODEL_ROWS, MODEL_LENGTH = 8, 92

# Small enough that a step takes milliseconds; all rows of a step make one
# micro-batch, so that the update has one shape. Epsilon is large because Adam's
# first step is else the sign of rounding errors.
CONFIG = GrpoConfig(
    steps=3, questions=8, samples=2, row_length=64, micro_rows=16,
    max_new_tokens=(12,), template="plain", save_every=2, eval_every=0,
    policy=PolicyConfig(kl_beta=0.1),
    optimizer=OptimizerConfig(lr=0.3, eps=1.0))
STEP = CONFIG.questions * CONFIG.samples  # samples of a step


class Tokenizer(SentencePieceTokenizer):
  """The shipped one, with many ends: a random model's samples differ."""

  def __init__(self):
    super().__init__(weights.TOKENIZER)
    self.eos_ids = frozenset(range(3, self.vocab_size, 9))


class Pool:
  """Scores by checksum at once; the judge asks no more of `rewards.Pool`.

  Attributes:
    first: step (from 1) -> accuracy of that step's first sample.
    seen: samples so far.
  """

  def __init__(self, first=None):
    self.first, self.step, self.seen = first or {}, 0, 0

  def submit(self, items):
    """Groups come as they end: a step is so many items as it has samples."""
    done, before = divmod(self.seen, STEP)
    self.step, self.seen = 1 + done, self.seen + len(items)
    scores = [_score(text) for *_, text in items]
    if self.step in self.first and not before:
      scores[0]["accuracy"] = self.first[self.step]
    future = concurrent.futures.Future()
    future.set_result(scores)
    return future


def _score(text):
  number = zlib.crc32(text.encode())
  return {"accuracy": Score(float(number % 2), True, "checksum"),
          "format": Score(float(number // 2 % 2), True, "checksum")}


@functools.cache
def tokenizer():
  return Tokenizer()


def judge(pool=None):
  return Judge(tokenizer(), "plain", pool or Pool(), Combine())


@functools.cache
def prompts():
  """24 questions whose prompts fall into one bucket of the engine."""
  found = []
  for number, problem in enumerate(arithmetic.examples("train", 200)):
    prompt = Prompt(
        id=number, domain="math", source="arith",
        messages=ask(problem.question), reference=str(problem.answer),
        verifier="math", metadata={"level": problem.level})
    if 17 <= len(judge().tokens(prompt)) <= 32:
      found.append(prompt)
  return found[:24]


@functools.cache
def _parameters(config):
  model = build(config)
  params = jax.jit(model.init)(jax.random.key(0))
  bias_LE = np.asarray(model.init_router_bias())
  noise_LE = np.random.default_rng(1).normal(size=bias_LE.shape)
  return jax.device_get(params), bias_LE + np.float32(0.05 * noise_LE)


def policy(config=MIXTURE):
  """Weights with buffers of their own."""
  params, bias_LE = jax.tree.map(jax.numpy.array, _parameters(config))
  return weights.Weights(build(config, Compute()), params, bias_LE)


def handed(config=MIXTURE):
  """`policy`, to be given to a run."""
  return weights.Handover(policy(config))


def rewarding(compute=None, mesh=None, *, parts=False, offload=False):
  """A judge with two reward models, the helpful one larger.

  Every other question is theirs, see `general`.
  """
  compute = compute or Compute()

  def asked(config):
    model = scalar_head.over(config, compute)
    init = jax.jit(model.init, out_shardings=weights.placed(model, mesh))
    return reward_models.Asked(
        weights.Weights(model, init(jax.random.key(4)),
                        model.init_router_bias()), tokenizer(), "plain",
        Scoring(model, MODEL_ROWS, MODEL_LENGTH, mesh, parts=parts),
        offload=offload)

  return Judge(tokenizer(), "plain", Pool(), Combine(
      weights={"accuracy": 1.0, "format": 1.0, "helpful": 1.0, "safety": 1.0}),
      {name: Scorer(model=asked(config), shown="text", blank=-1.0)
       for name, config in REWARDING.items()})


def general(questions):
  """Every other question without a rule, and of these every other a safety one.
  """
  return [dataclasses.replace(
      p, verifier=("math", "")[i % 2], metadata={"safety": i % 4 == 1})
          for i, p in enumerate(questions)]


def config(**changes):
  return dataclasses.replace(CONFIG, **changes)


def same(a, b):
  """Asserts that two trees of arrays are bit-equal."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def as_second_of_two(monkeypatch):
  """Evaluations take the second process's part of every batch of problems."""
  part = evaluating._part

  def second(batch):
    with monkeypatch.context() as patch:
      patch.setattr(jax, "process_count", lambda: 2)
      patch.setattr(jax, "process_index", lambda: 1)
      return part(batch)

  monkeypatch.setattr(evaluating, "_part", second)
