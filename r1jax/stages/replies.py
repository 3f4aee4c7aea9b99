"""A local model that answers conversations: a policy, a judge, a rewriter."""

from __future__ import annotations

import collections
import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.accounting import cost
from r1jax.core.config import check
from r1jax.core.prompt import Message
from r1jax.data.streams import preference
from r1jax.data.text import hf_tokenizer, templates
from r1jax.data.text.templates import Rendered
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models.compute import Compute
from r1jax.rewards import response
from r1jax.rollout import engine as engine_lib
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.sharding import processes
from r1jax.stages import evaluating, weights
from r1jax.stages.weights import Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyConfig:
  """How a model replies."""

  # Prompt template: auto (the tokenizer's own chat template, else plain), or
  # the name of another.
  template: str = preference.AUTO
  batch: int = 16  # conversations per batch
  # Sampling temperature; 0: greedy (R1's evaluations: 0.6).
  temperature: float = 0.6
  # Nucleus sampling: probability of the tokens that are kept; 1 keeps all
  # (R1's evaluations: 0.95).
  top_p: float = 0.95
  max_new_tokens: int = 1024  # longest reply, in tokens
  seed: int = 0  # seed of the replies

  def __post_init__(self):
    check(self.batch > 0, f"batch={self.batch} must be positive")


class _Answer(NamedTuple):
  """A sampled answer with its prefilled beginning, and whether it ended."""

  text: str
  ended: bool


class Replier:
  """A model that answers conversations; a `rewards.judge.Generate`.

  Parameters are loaded with the first conversation, so that work before it has
  the memory.

  Attributes:
    failures: reason -> number of conversations without a reply so far.
  """

  def __init__(self, policy: Callable[[], Weights], context: int,
               tokenizer: Tokenizer, cfg: ReplyConfig,
               mesh: jax.sharding.Mesh | None = None, *, name: str = "model"):
    """Loads and compiles nothing yet.

    Args:
      policy: loads the model, whose arrays are then moved.
      context: longest sequence of the model, in tokens.
      tokenizer: its tokenizer.
      cfg: how it replies.
      mesh: the parameters' mesh, if any.
      name: the model's name, for errors.

    Raises:
      ValueError: the context has no room for a prompt beside a reply, or the
        template does not suit the tokenizer.
    """
    self._policy, self._cfg = policy, cfg
    self._mesh, self._limit = mesh, context - cfg.max_new_tokens
    self.failures: collections.Counter[str] = collections.Counter()
    check(self._limit > 0, f"max_new_tokens={cfg.max_new_tokens} leaves no room"
          f" in {name}'s context of {context}; set it to a smaller number")
    self._template = templates.read(
        preference.template_for(cfg.template, tokenizer))
    self._tokenizer = templates.ended(tokenizer, self._template)
    self._empty = templates.prompt(  # also detects errors early
        [{"role": "user", "content": ""}], self._template, tokenizer)

  @functools.cached_property
  def _ready(self) -> tuple[Callable[[int], Engine], Any, jax.Array]:
    """(function from samples of a conversation to an engine, parameters in
    the decode layout, router bias)."""
    policy = self._policy()

    @functools.cache
    def engine(samples: int) -> Engine:
      return Engine(policy.model, SamplingConfig(
          temperature=self._cfg.temperature, top_p=self._cfg.top_p,
          max_new_tokens=self._cfg.max_new_tokens,
          vocab=self._tokenizer.vocab_size), self._tokenizer.eos_ids,
          self._mesh, max_rows=self._rows(samples))

    return (engine, evaluating.laid_out(
        policy, engine(1), donate=True), policy.router_bias_LE)

  def _rows(self, samples: int) -> int:
    """Rows of `batch` conversations, rounded up to a multiple of the lanes."""
    lanes = engine_lib.lanes(self._mesh)
    return -(-self._cfg.batch * samples // lanes) * lanes

  def __call__(self, conversations: Sequence[Sequence[Message]]
               ) -> list[str | None]:
    """One reply per conversation, without its thought.

    A reply depends on the seed and the conversation, not on the batch. It is
    None if the template rejects the conversation, if the conversation is too
    long, or if the reply is empty or reaches the length limit.
    """
    rendered = list(map(self._rendered, conversations))
    return [answers and self._reply(answers[0]) for answers in self._sampled(
        rendered, [_address(one) if one else 0 for one in rendered], 1)]

  def samples(self, conversations: Sequence[Sequence[Message]],
              ids: Sequence[int], count: int) -> list[list[str] | None]:
    """`count` whole answers per conversation, thoughts included.

    None for a conversation that the template rejects or that is too long.

    Args:
      conversations: what to answer.
      ids: one per conversation, below 2**31, which seeds its samples.
      count: samples per conversation.
    """
    sampled = self._sampled(
        list(map(self._rendered, conversations)), ids, count)
    return [answers and [answer.text for answer in answers]
            for answers in sampled]

  def _sampled(self, rendered: Sequence[Rendered | None], ids: Sequence[int],
               count: int) -> list[list[_Answer] | None]:
    answers: list[list[_Answer] | None] = [None] * len(rendered)
    asked = [(at, one) for at, one in enumerate(rendered) if one]
    # Processes sample together: one without conversations uses an empty one.
    rounds, = processes.largest(-(-len(asked) // self._cfg.batch))
    if not rounds:
      return answers
    engines, params, bias_LE = self._ready
    engine = engines(count)
    # Filled up to whole batches, so that few shapes are compiled.
    full = [(one, ids[at]) for at, one in asked] or [(self._empty, 0)]
    full += full[:1] * (rounds * self._cfg.batch - len(full))
    with cost.phase("sample"):
      rollout = engine.generate(
          params, bias_LE, [np.array(one.ids, np.int32) for one, _ in full],
          [address for _, address in full], count,
          jax.random.key(self._cfg.seed), repeats_Q=[0] * len(full))
    cost.sampled(engine.model.cfg, rollout)
    for row, (at, one) in enumerate(asked):
      answers[at] = [_Answer(
          one.tail + self._text(rollout.completion(row, g).tolist()),
          not rollout.truncated_QG[row, g]) for g in range(count)]
    return answers

  def _text(self, ids: list[int]) -> str:
    ends = ids[-1] in self._tokenizer.eos_ids
    return self._tokenizer.decode(ids[:-1] if ends else ids)

  def _rendered(self, messages: Sequence[Message]) -> Rendered | None:
    try:
      rendered = templates.prompt(messages, self._template, self._tokenizer)
    except ValueError as error:
      return self._failed(str(error))
    if len(rendered.ids) > self._limit:
      return self._failed(
          f"it has more than {self._limit} tokens, the context less"
          f" max_new_tokens={self._cfg.max_new_tokens}")
    return rendered

  def _reply(self, answer: _Answer) -> str | None:
    if not answer.ended:
      return self._failed("the reply does not end within max_new_tokens="
                          f"{self._cfg.max_new_tokens}")
    said = response.split("", answer.text).answer
    return said or self._failed("the reply is empty, or nothing but a thought")

  def _failed(self, reason: str) -> None:
    self.failures[reason] += 1


def load(init: str, cfg: ReplyConfig, compute: Compute | None = None,
         mesh: jax.sharding.Mesh | None = None, tokenizer: str = ""
         ) -> Replier:
  """The replier of a model.

  Args:
    init: the model, as `weights.load` takes it.
    cfg: how it replies.
    compute: how it is computed.
    mesh: the parameters' mesh, if any.
    tokenizer: path of a tokenizer; "" for the model's own.

  Raises:
    ValueError: as `weights.with_tokenizer` and `Replier`.
  """
  check(jax.process_count() == 1, f"{init} can reply in one process only; run"
        " the command as one process, or give an endpoint or a function")
  reader = hf_tokenizer.load(tokenizer or weights.tokenizer_of(init))
  context = weights.config_of(init).max_position
  return Replier(
      lambda: weights.with_tokenizer(
          init, compute, seed=cfg.seed, mesh=mesh, computing=True,
          tokenizer=tokenizer)[0],
      context, reader, cfg, mesh, name=init)


def _address(rendered: Rendered) -> int:
  return zlib.crc32(np.array(rendered.ids, np.int32).tobytes()) >> 1
