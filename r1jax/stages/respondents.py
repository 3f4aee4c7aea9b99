"""Who answers a benchmark: a model of ours, or an endpoint."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from r1jax.rollout.engine import Engine
from r1jax.stages import evaluating, weights
from r1jax.stages.evaluating import EvalConfig, Group, Sample
from r1jax.stages.judging import Judge
from r1jax.stages.weights import Weights

_ENDLESS = 1 << 30  # an endpoint says itself what is too long


@dataclasses.dataclass(frozen=True, kw_only=True)
class Respondent:
  """Who is evaluated.

  Attributes:
    settings: what its answers depend on beside the sampling, JSON-ready.
    tokenizer: of its prompts.
    template: in which questions are put.
    context: tokens that it takes.
    sample: (how, judge) -> what samples its answers.
    silent: whether an empty answer is a failure to answer, not the model's.
  """

  settings: dict[str, Any]
  tokenizer: Tokenizer
  template: str
  context: int
  sample: Callable[[EvalConfig, Judge], Sample]
  silent: bool = False


def ours(init: str, policy: Weights, tokenizer: Tokenizer, template: str,
         mesh: jax.sharding.Mesh | None = None) -> Respondent:
  """A model of ours, which is given up.

  Args:
    init: its name.
    policy: the model.
    tokenizer: its own.
    template: as `data.text.templates.read` gives it.
    mesh: where it lies.
  """
  settings = {"init": init, "parameters": weights.fingerprint(policy)}

  @functools.cache
  def engine(cfg: EvalConfig) -> Engine:
    return evaluating.sampler(cfg, policy.model, tokenizer, mesh)

  @functools.cache
  def params():  # laid out once, for whichever engine comes first
    return evaluating.laid_out(policy, engine(EvalConfig()), donate=True)

  def sample(cfg: EvalConfig, judge: Judge) -> Sample:
    # One engine for all that it samples alike.
    alike = dataclasses.replace(cfg, samples=1, seed=0)
    return evaluating.generating(
        cfg, engine(alike), judge, params(), policy.router_bias_LE)

  return Respondent(
      settings=settings, tokenizer=tokenizer, template=template,
      context=policy.model.cfg.max_position, sample=sample)


def behind(config: EndpointConfig, key: str) -> Respondent:
  """An endpoint that speaks OpenAI's chat completions; it has its own template.

  Its answers have no tokens of ours: lengths are 0. What it does not answer is
  an empty text.

  Args:
    config: its URL and the model's name.
    key: sent as a bearer token, neither logged nor stored.

  Raises:
    ValueError: the model has no name.
  """
  check(bool(config.model), f"{config.url} has models by name: give"
        " --served.model=NAME")

  def sample(cfg: EvalConfig, judge: Judge) -> Sample:
    del judge
    endpoint = Endpoint(dataclasses.replace(
        config, temperature=cfg.temperature, top_p=cfg.top_p,
        max_tokens=cfg.max_new_tokens), key=key)

    def answers(batches: Sequence[Sequence[Prompt]]) -> Iterator[list[Group]]:
      for at, prompts in enumerate(batches):
        said = endpoint([p.messages for p in prompts
                         for _ in range(cfg.samples)])
        yield [_answered(at, q, prompt, said[q * cfg.samples:][:cfg.samples])
               for q, prompt in enumerate(prompts)]

    return answers

  return Respondent(
      settings={"init": config.url, "model": config.model},
      tokenizer=tokenizer_lib.SentencePieceTokenizer(weights.TOKENIZER),
      template="plain", context=_ENDLESS, sample=sample, silent=True)


def _answered(batch: int, question: int, prompt: Prompt,
              said: Sequence[str | None]) -> Group:
  """Texts as a group without tokens."""
  shape = 1, len(said)
  return Group(batch, question, Rollout(
      prompt_tokens=(np.zeros(0, np.int32),),
      prompt_ids_Q=np.array([prompt.id], np.int32),
      tokens_QGT=np.zeros((*shape, 0), np.int32),
      lengths_QG=np.zeros(shape, np.int32),
      truncated_QG=np.zeros(shape, bool),
      logprobs_QGT=np.zeros((*shape, 0), np.float32)),
      [text or "" for text in said])
