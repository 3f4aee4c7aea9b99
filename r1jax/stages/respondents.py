"""Models that answer benchmarks: r1jax's own, or an endpoint's."""

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

_ENDLESS = 1 << 30  # an endpoint itself refuses prompts that are too long


@dataclasses.dataclass(frozen=True, kw_only=True)
class Respondent:
  """A model under evaluation.

  Attributes:
    settings: what its answers depend on besides sampling, JSON-ready.
    tokenizer: tokenizer of its prompts.
    template: template of the questions.
    context: most tokens of prompt and answer.
    sample: (sampling settings, judge) -> function that samples its answers.
    silent: whether an empty answer means that the request failed.
  """

  settings: dict[str, Any]
  tokenizer: Tokenizer
  template: str
  context: int
  sample: Callable[[EvalConfig, Judge], Sample]
  silent: bool = False


def ours(init: str, policy: Weights, tokenizer: Tokenizer, template: str,
         mesh: jax.sharding.Mesh | None = None) -> Respondent:
  """A model in this process, whose arrays are donated.

  Args:
    init: its --init, stored with the results.
    policy: the model.
    tokenizer: its tokenizer.
    template: a template's name, or text as `data.text.templates.read` gives it.
    mesh: the mesh of its parameters; None for one device.
  """
  settings = {"init": init, "parameters": weights.fingerprint(policy),
              "tokenizer": tokenizer_lib.digest(tokenizer),
              "date": tokenizer.date, "dtype": policy.model.compute.dtype}

  @functools.cache
  def engine(cfg: EvalConfig) -> Engine:
    return evaluating.sampler(cfg, policy.model, tokenizer, mesh)

  @functools.cache
  def params():  # once; the layout is the same for all engines
    return evaluating.laid_out(policy, engine(EvalConfig()), donate=True)

  def sample(cfg: EvalConfig, judge: Judge) -> Sample:
    # Benchmarks that differ in samples and seed alone share an engine.
    alike = dataclasses.replace(cfg, samples=1, seed=0)
    return evaluating.generating(
        cfg, engine(alike), judge, params(), policy.router_bias_LE)

  return Respondent(
      settings=settings, tokenizer=tokenizer, template=template,
      context=policy.model.cfg.max_position, sample=sample)


def behind(config: EndpointConfig, key: str) -> Respondent:
  """An endpoint with OpenAI's chat completions API and its own template.

  Its answers are texts without token ids, so that lengths are 0. The answer of
  a failed request is "".

  Args:
    config: its URL and the model's name.
    key: API key, sent as a bearer token, neither logged nor stored.

  Raises:
    ValueError: the model has no name.
  """
  check(bool(config.model), f"{config.url} needs the name of a model: give"
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
  """A group of texts, without tokens."""
  shape = 1, len(said)
  return Group(batch, question, Rollout(
      prompt_tokens=(np.zeros(0, np.int32),),
      prompt_ids_Q=np.array([prompt.id], np.int32),
      tokens_QGT=np.zeros((*shape, 0), np.int32),
      lengths_QG=np.zeros(shape, np.int32),
      truncated_QG=np.zeros(shape, bool),
      logprobs_QGT=np.zeros((*shape, 0), np.float32)),
      [text or "" for text in said])
