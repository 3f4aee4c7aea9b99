"""Who answers a benchmark: a model of ours, or an endpoint."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.core.types import Rollout
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.evals.runner import Generate
from r1jax.rewards.endpoint import Endpoint, EndpointConfig
from r1jax.rollout.engine import Engine
from r1jax.stages import evaluating, weights
from r1jax.stages.evaluating import EvalConfig
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
    generate: (how, judge) -> prompts to samples.
    silent: whether an empty answer is a failure to answer, not the model's.
  """

  settings: dict[str, Any]
  tokenizer: Tokenizer
  template: str
  context: int
  generate: Callable[[EvalConfig, Judge], Generate]
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
  def engine(tokens: int, temperature: float, top_p: float) -> Engine:
    return evaluating.sampler(EvalConfig(
        temperature=temperature, top_p=top_p, max_new_tokens=tokens),
        policy.model, tokenizer, mesh)

  @functools.cache
  def params():  # laid out once, for whichever engine comes first
    return evaluating.laid_out(policy, engine(1, 1.0, 1.0), donate=True)

  def generate(cfg: EvalConfig, judge: Judge) -> Generate:
    return evaluating.generating(
        cfg, engine(cfg.max_new_tokens, cfg.temperature, cfg.top_p), judge,
        params(), policy.router_bias_LE)

  return Respondent(
      settings=settings, tokenizer=tokenizer, template=template,
      context=policy.model.cfg.max_position, generate=generate)


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

  def generate(cfg: EvalConfig, judge: Judge) -> Generate:
    del judge
    endpoint = Endpoint(dataclasses.replace(
        config, temperature=cfg.temperature, top_p=cfg.top_p,
        max_tokens=cfg.max_new_tokens), key=key)

    def answers(prompts: Sequence[Prompt]) -> tuple[Rollout, list[list[str]]]:
      said = endpoint([p.messages for p in prompts
                       for _ in range(cfg.samples)])
      shape = len(prompts), cfg.samples
      texts = np.array([text or "" for text in said], object).reshape(shape)
      return Rollout(
          prompt_tokens=tuple(np.zeros(0, np.int32) for _ in prompts),
          prompt_ids_Q=np.array([p.id for p in prompts], np.int32),
          tokens_QGT=np.zeros((*shape, 0), np.int32),
          lengths_QG=np.zeros(shape, np.int32),
          truncated_QG=np.zeros(shape, bool),
          logprobs_QGT=np.zeros((*shape, 0), np.float32)), texts.tolist()

    return answers

  return Respondent(
      settings={"init": config.url, "model": config.model},
      tokenizer=tokenizer_lib.SentencePieceTokenizer(weights.TOKENIZER),
      template="plain", context=_ENDLESS, generate=generate, silent=True)
