"""A model of ours that replies to conversations, for judging and rewriting."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from r1jax.core import thoughts
from r1jax.core.config import check
from r1jax.core.types import Message
from r1jax.data import templates
from r1jax.models.compute import Compute
from r1jax.rewards.judge import Generate
from r1jax.rollout.engine import Engine
from r1jax.rollout.sampling import SamplingConfig
from r1jax.stages import evaluating, weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyConfig:
  """How a model replies."""

  template: str = "chat"  # the tokenizer's own, or another prompt template
  batch: int = 16  # conversations at once
  temperature: float = 0.6  # 0 takes the likeliest token
  top_p: float = 0.95  # smallest set of tokens with this probability
  max_new_tokens: int = 1024  # longest reply
  seed: int = 0  # of the replies

  def __post_init__(self):
    check(self.batch > 0, f"batch={self.batch} must be positive")


def from_model(init: str, cfg: ReplyConfig, compute: Compute | None = None,
               mesh: jax.sharding.Mesh | None = None) -> Generate:
  """The model of `init` as a function from conversations to texts.

  A reply is what follows the model's thought, if it has one. It is drawn by the
  seed and the conversation, whatever batch that is in. A conversation too long
  for the model, and a reply that meets the length limit, give "".

  Raises:
    ValueError: as `weights.with_tokenizer`, or the template does not suit.
  """
  check(jax.process_count() == 1, f"{init} replies in one process; start the"
        " command alone, or give a program")
  policy, tokenizer = weights.with_tokenizer(
      init, compute, seed=cfg.seed, mesh=mesh)
  engine = Engine(policy.model, SamplingConfig(
      temperature=cfg.temperature, top_p=cfg.top_p,
      max_new_tokens=cfg.max_new_tokens), tokenizer.eos_ids, mesh)
  params = evaluating.laid_out(policy, engine, donate=True)
  limit = policy.model.cfg.max_position - cfg.max_new_tokens
  check(limit > 0, f"max_new_tokens={cfg.max_new_tokens} leaves no room in"
        f" {init}'s context of {policy.model.cfg.max_position}")
  template = templates.read(cfg.template)
  templates.prompt([{"role": "user", "content": ""}], template, tokenizer)

  def replies(asked: Sequence[templates.Rendered]) -> list[str]:
    # The shapes never change: the last batch is filled with repeats.
    full = [*asked, *[asked[-1]] * (cfg.batch - len(asked))]
    ids = [np.array(rendered.ids, np.int32) for rendered in full]
    rollout = engine.generate(
        params, policy.router_bias_LE, ids, [_address(x) for x in ids], 1,
        jax.random.key(cfg.seed))
    texts = []
    for row, rendered in enumerate(asked):
      tokens = rollout.completion(row, 0).tolist()
      text = tokenizer.decode(
          tokens[:-1] if tokens[-1] in tokenizer.eos_ids else tokens)
      texts.append("" if rollout.truncated_QG[row, 0] else
                   thoughts.split(rendered.tail + text).answer)
    return texts

  def generate(conversations: Sequence[tuple[Message, ...]]) -> list[str]:
    rendered = [templates.prompt(c, template, tokenizer) for c in conversations]
    fit = [i for i, r in enumerate(rendered) if len(r.ids) <= limit]
    texts = [""] * len(rendered)
    for start in range(0, len(fit), cfg.batch):
      part = fit[start:start + cfg.batch]
      for i, text in zip(part, replies([rendered[i] for i in part])):
        texts[i] = text
    return texts

  return generate


def _address(ids: np.ndarray) -> int:
  return zlib.crc32(ids.tobytes()) >> 1
