"""The synthetic data sets as prompts; no content is in two splits.

`requests` and `wrongs` have two data sets each: for training without a
verifier, so that reward models score them, and for evaluation (`..._judged`)
with a verifier that knows the right answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.generated import draws
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import cups, questions, requests, words, wrongs

_SIZES = {"train": 12000, "validation": 128, "test": 128}


class Generated(NamedTuple):
  """A data set: the number of rows by split, and a split's prompts."""

  SPLITS: Mapping[str, int]
  prompts: Callable[[str], Iterator[Prompt]]


def _language(index: int) -> str:
  return words.LANGUAGES[index % 2]


def _reasoning(kind: str, dice: Dice, split: str, index: int) -> Prompt:
  language = _language(index)
  question = questions.draw(dice, kind, language, split)
  is_sum = kind == questions.SUMS
  level = len(questions.operations(question))
  return Prompt(
      id=index, domain="math" if is_sum else "logic", source=f"world-{kind}",
      messages=ask(question.question), language=language,
      reference=str(question.answer) if is_sum else {
          "answer": question.answer,
          "options": {cup: cup for cup in cups.CUPS}},
      verifier="math" if is_sum else "choice", metadata={"level": level})


def _request(judged: bool, dice: Dice, split: str, index: int) -> Prompt | None:
  request = requests.draw(dice, _language(index))
  if requests.split_of(request) != split:
    return None
  return _general(
      "requests", judged, index, request.question, request.language,
      request.reference(), "request", {"kind": request.kind})


def _wrong(judged: bool, dice: Dice, split: str, index: int) -> Prompt | None:
  wrong = wrongs.draw(dice, _language(index))
  if wrongs.split_of(wrong) != split:
    return None
  return _general(
      "safety", judged, index, wrong.question, wrong.language,
      wrong.reference(), "harm", {
          "safety": True, "category": wrong.category,
          "subcategory": wrong.subcategory, "harmful": wrong.harmful,
          "wrapper": wrong.wrapper})


def _general(name: str, judged: bool, index: int, question: str, language: str,
             reference: Any, verifier: str, metadata: dict[str, Any]) -> Prompt:
  return Prompt(
      id=index, domain="general", source=f"world-{name}",
      messages=ask(question), language=language, reference=reference,
      verifier=verifier if judged else "", metadata=metadata)


def _generated(name: str, make: draws.Make, sizes: Mapping[str, int]
               ) -> Generated:
  return Generated(sizes, lambda split: draws.distinct(
      name, sizes, split, make))


_REQUESTS = {"train": 400, "validation": 12, "test": 68}  # nearly all
_WRONGS = {"train": 2000, "validation": 128, "test": 128}

sums = _generated("world-sums", functools.partial(
    _reasoning, questions.SUMS), _SIZES)
swaps = _generated("world-cups", functools.partial(
    _reasoning, questions.CUPS), _SIZES)
general = _generated("world-requests", functools.partial(_request, False),
                     _REQUESTS)
general_judged = _generated("world-requests", functools.partial(_request, True),
                            _REQUESTS)
safety = _generated("world-safety", functools.partial(_wrong, False), _WRONGS)
safety_judged = _generated("world-safety", functools.partial(_wrong, True),
                           _WRONGS)
