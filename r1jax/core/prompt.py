"""A question and what is needed to judge answers to it; imports no JAX.

Reward rules run in small child processes that must start fast, so this module,
which they import, must not load JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# {"role": "system", "user" or "assistant", "content": text}
Message = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """One question with what is needed to judge an answer to it.

  Attributes:
    id: stable, below 2**31, unique within a data set. The random keys of the
      question's samples are derived from it, whatever batch they are in.
    domain: math, code, stem, logic or general.
    source: name of the data set that it is from.
    messages: the conversation so far; it ends with the user's question.
    reference: what the verifier compares with, JSON-serialisable: an answer,
      tests, options or the state of a puzzle.
    verifier: name of the accuracy rule (`rewards.rules.VERIFIERS`); "" if no
      rule can judge the answers, only reward models.
    language: ISO 639-1 code of the language to think and answer in.
    metadata: anything else, JSON-serialisable.
  """

  id: int
  domain: str
  source: str
  messages: tuple[Message, ...]
  reference: Any
  verifier: str
  language: str = "en"
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def question(self) -> str:
    """The last message, which is the user's."""
    return self.messages[-1]["content"]


def ask(question: str) -> tuple[Message, ...]:
  """The messages of a conversation that consists of one question."""
  return ({"role": "user", "content": question},)
