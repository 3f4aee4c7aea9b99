"""A question and what is needed to judge answers to it; imports no JAX.

Rules run in small processes that start fast, so what they see of a question
must not load what trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, str]  # {"role": system, user or assistant; "content"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """One question with what is needed to judge an answer to it.

  Attributes:
    id: stable, below 2**31, unique within a data set: it addresses the
      randomness of the question's samples, whatever batch they sit in.
    domain: math, code, stem, logic or general.
    source: the data set it is from.
    messages: the conversation so far; it ends with the user's question.
    reference: what the verifier compares with, JSON-ready: an answer, tests,
      options or the state of a puzzle.
    verifier: name of the accuracy rule (`rewards.rules.VERIFIERS`); "" where no
      rule can judge, and only reward models do.
    language: ISO 639-1 code of the language to think and answer in.
    metadata: anything else, JSON-ready.
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
  """The messages of a conversation that is one question."""
  return ({"role": "user", "content": question},)
