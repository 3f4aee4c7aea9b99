"""Decontamination: drops training prompts that share 10-grams with evaluations.

DeepSeek-R1 (arXiv:2501.12948 v2, D.1) drops text with any 10-gram match to
evaluation questions or reference solutions. Compared are all texts of a prompt:
its messages and the strings in its reference and metadata. Departures, on
points that the paper leaves open:

- N-grams that many prompts of an evaluation share are instructions ("Write a
  Python function that ..."), not questions: such ten-grams and four-grams are
  ignored (`Limits.boilerplate`).
- The rest of a shared ten-gram must have four different words of two letters or
  more. So the numbers 1 to 10 in a row, two loops over range(n), or the end of
  a question followed by an instruction are no match.
- A question that equals one of an evaluation, up to case and spaces, is always
  dropped, even if it has fewer than ten words.
- Inputs, outputs and cases of programs' tests are data and not compared.

Paraphrases and translations are not found.
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
_DISTINCT = 4  # least number of different words in a shared n-gram
_PHRASE = 4  # words of the n-grams of boilerplate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What counts as shared text.

  Attributes:
    words: n of the n-grams (10 in the paper).
    boilerplate: n-grams in more than this share of an evaluation's different
      questions count as instructions and are ignored.
    least: n-grams in at most this many questions are never ignored, however
      small the evaluation is.
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
  """A match of a training prompt with an evaluation.

  Attributes:
    evaluation: name of the evaluation.
    id: of the evaluation's prompt.
    shared: the first shared n-gram as normalised words, or the whole question.
  """

  evaluation: str
  id: int
  shared: str


class Dropped(NamedTuple):
  """A dropped training prompt, with its first match in each evaluation."""

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
  """A key that is the same for questions equal up to case and spaces."""
  text = "\n".join(message["content"] for message in prompt.messages)
  return " ".join(ngrams.plain(text).casefold().split()).rstrip(" .?。？")


class Evaluations:
  """An index of the n-grams and questions of evaluation sets.

  It takes about 30 bytes per n-gram: 60 MB for 10,000 prompts of 200 words.
  """

  def __init__(self, sets: Mapping[str, Sequence[Prompt]],
               limits: Limits = Limits()):
    """Indexes the prompts.

    Args:
      sets: {name of the evaluation: its prompts}.
      limits: what counts as shared text.
    """
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
      # One entry per n-gram and question, ordered by question.
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
    """The first match of each prompt with each evaluation; () if it is clean.
    """
    firsts: list[dict[str, Match]] = [{} for _ in prompts]
    for number, match in self.hits(prompts):
      firsts[number].setdefault(match.evaluation, match)
    return [tuple(mine[name] for name in self._names if name in mine)
            for mine in firsts]

  def hits(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Match]]:
    """All matches, as (index of the prompt, match).

    First equal questions; then all shared n-grams, in the order of prompts.
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
  """Whether an n-gram has enough different words beside boilerplate."""
  own = np.ones(len(shared), bool)
  grams = ngrams.grams([" ".join(shared)], _PHRASE)
  for at in np.flatnonzero(ngrams.contains(phrases, grams.hashes)):
    own[grams.starts[at]:grams.ends[at]] = False
  return len({token for token, mine in zip(shared, own, strict=True) if mine
              and (not token.isascii()
                   or len(token) > 1 and not token.isdigit())}) >= _DISTINCT


def _grams_of(prompts: Sequence[Prompt], words: int
              ) -> tuple[np.ndarray, np.ndarray]:
  """(hashes of all n-grams, index of the prompt of each)."""
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
  """Splits training prompts into clean and contaminated ones.

  Args:
    parts: {source: training prompts}.
    evaluations: to compare with.
    progress: called with the number of prompts done, chunk by chunk.

  Returns:
    ({source: clean prompts in their order}, {source: dropped prompts}).
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
  """Numbers of dropped prompts by source and evaluation, with examples; JSON.

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
