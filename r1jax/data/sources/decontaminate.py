"""Training prompts that share ten words with an evaluation are left out.

DeepSeek-R1 (arXiv:2501.12948 v2, D.1) drops text with any 10-gram match to
evaluation questions or reference solutions. Both sides are every text of a
prompt: messages, the strings of its reference and its metadata. Departures,
which the paper is silent on:

- What many prompts of one evaluation share are its instructions ("Write a
  Python function that ...") and not its questions: ten-grams and four-grams of
  that sort count for nothing (`Limits.boilerplate`).
- In what is left of a ten-gram there must be four different words of two
  letters or more: the numbers 1 to 10 in a row, two loops over range(n), or the
  end of a question and the instruction after it are not taken from anywhere.
- A question that equals one of an evaluation, case and spaces aside, is always
  left out; a question of fewer than ten words only so.
- Inputs, outputs and cases of programs' tests are data, not text.

A paraphrase or a translation is not found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r1jax.core.config import check
from r1jax.core.prompt import Prompt
from r1jax.data.text import ngrams

_CHUNK = 500  # prompts hashed at once
_SHOWN = 5  # examples in a report
_DATA = ("inputs", "outputs", "cases")
_DISTINCT = 4  # different words that a shared n-gram needs
_PHRASE = 4  # words of the shortest boilerplate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What counts as shared text.

  Attributes:
    words: n of the n-grams (the paper's 10).
    boilerplate: n-grams in more than this share of the different questions of
      an evaluation are instructions; but see `least`.
    least: n-grams in no more than this many questions are never instructions,
      however small the evaluation is.
  """

  words: int = 10
  boilerplate: float = 0.01
  least: int = 5

  def __post_init__(self):
    check(self.words > 1, f"words={self.words}: single words are in every text;"
          " the paper uses 10")
    check(0 < self.boilerplate <= 1,
          f"boilerplate={self.boilerplate} is a share, in (0, 1]")
    check(self.least > 0, f"least={self.least} must be positive")


class Match(NamedTuple):
  """What a training prompt shares with an evaluation.

  Attributes:
    evaluation: its name.
    id: of the evaluation's prompt.
    shared: the first shared n-gram as normalised words, or the whole question.
  """

  evaluation: str
  id: int
  shared: str


class Dropped(NamedTuple):
  """A training prompt that is left out, with its first match by evaluation."""

  id: int
  matches: tuple[Match, ...]


def texts(prompt: Prompt) -> list[str]:
  """Every text of a prompt, its messages first."""
  contents = [message["content"] for message in prompt.messages]
  return contents + [*_strings(prompt.reference), *_strings(prompt.metadata)]


def _strings(value: Any) -> Iterator[str]:
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping):
    for key, inner in value.items():
      if key not in _DATA:
        yield from _strings(inner)
  elif isinstance(value, list | tuple):
    for inner in value:
      yield from _strings(inner)


def same_question(prompt: Prompt) -> str:
  """A key that equal questions share, whatever their case and spaces."""
  text = "\n".join(message["content"] for message in prompt.messages)
  return " ".join(ngrams.plain(text).casefold().split()).rstrip(" .?。？")


class Evaluations:
  """The n-grams and questions of evaluation sets, to look prompts up in.

  Some 30 bytes an n-gram: 10,000 prompts of 200 words take 60 MB.
  """

  def __init__(self, sets: Mapping[str, Sequence[Prompt]],
               limits: Limits = Limits()):
    """Reads every prompt of `sets` (by name) once."""
    self._limits = limits
    self._names = tuple(sets)
    self._questions: dict[str, list[tuple[int, int]]] = {}
    self._phrases: list[np.ndarray] = []
    tables = [np.zeros((0, 3), np.uint64)]
    for number, prompts in enumerate(sets.values()):
      prompts = list(prompts)
      questions = [same_question(prompt) for prompt in prompts]
      for prompt, question in zip(prompts, questions):
        if question:
          self._questions.setdefault(question, []).append((number, prompt.id))
      hashes, owners = _grams_of(prompts, limits.words)
      ids = np.array([prompt.id for prompt in prompts], np.uint64)
      different = {question: i for i, question in enumerate(set(questions))}
      question_of = np.array([different[q] for q in questions], np.int64)
      most = max(limits.least, limits.boilerplate * len(different))
      kept = ~ngrams.contains(
          ngrams.common(hashes, question_of[owners], most), hashes)
      phrases, of = _grams_of(prompts, _PHRASE)
      self._phrases.append(ngrams.common(phrases, question_of[of], most))
      # Every question that has an n-gram keeps it, the first one first.
      hashes, owners = np.unique(np.stack([
          hashes[kept], owners[kept].astype(np.uint64)], 1), axis=0).T
      tables.append(np.stack([
          hashes, np.full(len(hashes), number, np.uint64),
          ids[owners.astype(np.int64)]], axis=1))
    table = np.concatenate(tables)
    table = table[np.argsort(table[:, 0], kind="stable")]
    self._hashes = np.ascontiguousarray(table[:, 0])
    self._sets, self._ids = table[:, 1].astype(np.int64), table[:, 2]

  def matches(self, prompts: Sequence[Prompt]) -> list[tuple[Match, ...]]:
    """For each prompt its first match with each evaluation; () for a clean one.
    """
    firsts: list[dict[str, Match]] = [{} for _ in prompts]
    for number, match in self.hits(prompts):
      firsts[number].setdefault(match.evaluation, match)
    return [tuple(mine[name] for name in self._names if name in mine)
            for mine in firsts]

  def hits(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Match]]:
    """All that is shared: (number of the prompt, with which question).

    Equal questions first; then every n-gram that a prompt and a question share,
    in the prompts' order.
    """
    for number, prompt in enumerate(prompts):
      question = same_question(prompt)
      for which, owner in self._questions.get(question, ()):
        yield number, Match(self._names[which], owner, question)
    parts = [(number, text) for number, prompt in enumerate(prompts)
             for text in texts(prompt)]
    grams = ngrams.grams([text for _, text in parts], self._limits.words)
    owner, tokens = -1, []
    for at in np.flatnonzero(ngrams.contains(self._hashes, grams.hashes)):
      if grams.owners[at] != owner:
        owner = grams.owners[at]
        tokens = ngrams.tokens(parts[owner][1])
      shared = tokens[grams.starts[at]:grams.ends[at]]
      first, end = (np.searchsorted(self._hashes, grams.hashes[at], side)
                    for side in ("left", "right"))
      telling: dict[int, bool] = {}
      for row in range(first, end):
        which = int(self._sets[row])
        if which not in telling:
          telling[which] = _telling(shared, self._phrases[which])
        if telling[which]:
          yield parts[owner][0], Match(
              self._names[which], int(self._ids[row]), " ".join(shared))


def _telling(shared: Sequence[str], phrases: np.ndarray) -> bool:
  """Whether enough words are left without the evaluation's boilerplate."""
  own = np.ones(len(shared), bool)
  grams = ngrams.grams([" ".join(shared)], _PHRASE)
  for at in np.flatnonzero(ngrams.contains(phrases, grams.hashes)):
    own[grams.starts[at]:grams.ends[at]] = False
  return len({token for token, mine in zip(shared, own, strict=True) if mine
              and (not token.isascii()
                   or len(token) > 1 and not token.isdigit())}) >= _DISTINCT


def _grams_of(prompts: Sequence[Prompt], words: int
              ) -> tuple[np.ndarray, np.ndarray]:
  """(hashes, which prompt each is of) of all n-grams."""
  hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
  for start in range(0, len(prompts), _CHUNK):
    parts = [(number, text) for number, prompt
             in enumerate(prompts[start:start + _CHUNK], start)
             for text in texts(prompt)]
    grams = ngrams.grams([text for _, text in parts], words)
    of = np.array([number for number, _ in parts], np.int64)
    hashes.append(grams.hashes)
    owners.append(of[grams.owners])
  return np.concatenate(hashes), np.concatenate(owners)


def decontaminate(
    parts: Mapping[str, Sequence[Prompt]], evaluations: Evaluations,
    progress: Callable[[int], None] = lambda prompts: None
) -> tuple[dict[str, list[Prompt]], dict[str, list[Dropped]]]:
  """Prompts that share nothing with the evaluations, and those that do.

  Args:
    parts: training prompts by the name of their source.
    evaluations: what they must not share text with.
    progress: is told of every chunk's size.

  Returns:
    (clean prompts in their order, dropped ones), both by source.
  """
  clean: dict[str, list[Prompt]] = {}
  dropped: dict[str, list[Dropped]] = {}
  for name, prompts in parts.items():
    clean[name], dropped[name] = [], []
    for start in range(0, len(prompts), _CHUNK):
      chunk = list(prompts[start:start + _CHUNK])
      for prompt, matches in zip(chunk, evaluations.matches(chunk),
                                 strict=True):
        if matches:
          dropped[name].append(Dropped(prompt.id, matches))
        else:
          clean[name].append(prompt)
      progress(len(chunk))
  return clean, dropped


def summary(dropped: Mapping[str, Sequence[Dropped]]) -> dict[str, Any]:
  """JSON: by source and evaluation the number dropped and a few examples.

  A prompt that matches two evaluations counts in both; "prompts" counts it
  once.
  """
  by_source: dict[str, Any] = {}
  for source, rows in dropped.items():
    by_set: dict[str, dict[str, Any]] = {}
    for row in rows:
      for match in row.matches:
        mine = by_set.setdefault(
            match.evaluation, {"dropped": 0, "examples": []})
        mine["dropped"] += 1
        if len(mine["examples"]) < _SHOWN:
          mine["examples"].append({
              "id": row.id, "evaluation_id": match.id, "shared": match.shared})
    by_source[source] = {"prompts": len(rows), "by_evaluation": by_set}
  return by_source
