"""Supervised examples: from rows of JSONL files to packed, weighted batches.

Only assistants' answers are trained, each including its end-of-sequence id.
`sft_rows` has the forms of rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from r1jax.core import fitting, io, thoughts
from r1jax.core.config import DataError, check
from r1jax.core.prompt import ask
from r1jax.core.types import TokenBatch
from r1jax.data.sources import json_rows
from r1jax.data.sources.sft_rows import Message, Row, check_any, read
from r1jax.data.streams import packing
from r1jax.data.text import chat, templates
from r1jax.data.text.tokenizer import Tokenizer, escaped

MALFORMED = 0.01  # a larger share of malformed rows is an error

# Examples packed together: more fill the rows better, fewer mix better.
_CHUNK = 512
_SHOWN = 10  # malformed rows listed


class Span(NamedTuple):
  """A piece of a dialogue's text.

  Attributes:
    text: the piece.
    trained: whether it is a whole answer.
    weight: an answer's factor of the loss.
  """

  text: str
  trained: bool
  weight: float = 1.0


class Example(NamedTuple):
  """A dialogue as ids.

  Attributes:
    tokens: int32 [n], bos first if the tokenizer's `bos_id` is set.
    trained: bool [n], which of them are targets.
    weight: factor of the targets' loss, a number or float32 [n].
  """

  tokens: np.ndarray
  trained: np.ndarray
  weight: float | np.ndarray


class Data(NamedTuple):
  """The examples of some files, and what was left out.

  Attributes:
    examples: those that fit a row, in memory or read on access.
    too_long: number of examples that do not fit and are left out.
    malformed: `FILE:LINE: reason` for each malformed row, left out.
    sources: the names of sources in the rows.
    trained: number of target tokens in `examples`.
    unread: names of fields in the rows that are ignored.
  """

  examples: Sequence[Example]
  too_long: int
  malformed: list[str]
  sources: frozenset[str]
  trained: int
  unread: frozenset[str] = frozenset()

  def explain(self, name: str) -> str:
    """A text for the log: what was read and what was left out."""
    tokens = int(lengths(self.examples).sum())
    lines = [f"{name}: {len(self.examples)} examples, {tokens} tokens,"
             f" {self.trained} of them trained"]
    if self.too_long:
      lines.append(f"{self.too_long} examples are longer than a row and left"
                   " out; to use them, raise --row_length")
    if self.unread:
      lines.append("fields of rows that are ignored: "
                   + ", ".join(sorted(self.unread)))
    if self.malformed:
      lines.append(f"{len(self.malformed)} malformed rows are left out:")
      lines += [f"  {line}" for line in self.malformed[:_SHOWN]]
    return "\n".join(lines)


def lengths(examples: Sequence[Example]) -> np.ndarray:
  """int [E], the number of tokens of each example."""
  known = getattr(examples, "lengths_E", None)  # streamed examples have it
  return np.array([len(e.tokens) for e in examples]) if known is None else known


def dialogues(messages: Sequence[Message], template: str, tokenizer: Tokenizer
              ) -> list[list[Span]]:
  """Splits messages into the spans of one or more sequences.

  Every answer follows exactly the text that a sampler would continue. If the
  chat template rewrites earlier turns (R1's drops their thoughts), each answer
  gets a sequence of its own, otherwise all share one. Plain templates have no
  turns: each question is rendered with the template by itself, in one sequence.

  Args:
    messages: roles and contents; no answer is empty.
    template: as `templates.prompt` takes it.
    tokenizer: has the chat template, if `template` is "chat".

  Raises:
    ValueError: the template refuses the messages.
  """
  found = templates.chat_of(template)
  if found is None:
    roles = [message["role"] for message in messages]
    check(all(a != b for a, b in itertools.pairwise(roles)), "two messages of"
          " one role follow each other; only chat templates have room for that")
    return [[_plain(message, template, tokenizer) for message in messages]]
  messages = templates.with_its_system(messages, template)
  sequences, so_far = [], None
  for index, message in enumerate(messages):
    if message["role"] != "assistant":
      continue
    prompt = chat.render(tokenizer, messages[:index], **found.options)
    answer = _continuing(chat.tail(prompt), message["content"])
    said = Span(answer, True, message.get("weight", 1.0))
    if so_far is not None and prompt.startswith(so_far):
      sequences[-1] += [Span(prompt[len(so_far):], False), said]
    else:
      sequences.append([Span(prompt, False), said])
    so_far = prompt + escaped(answer, tokenizer.control_tokens)
  return sequences


def _plain(message: Message, template: str, tokenizer: Tokenizer) -> Span:
  text = message["content"]
  check(message["role"] != "system", "only chat templates have room for a"
        " system message")
  if message["role"] == "user":
    text = templates.asked(text, template, tokenizer)
    return Span(templates.render(text, template), False)
  text = _continuing(templates.tail(template), text)
  # Completions begin with a space, unless the template ends with one.
  spaced = text[0].isspace() or templates.render("", template)[-1].isspace()
  return Span(text if spaced else f" {text}", True, message.get("weight", 1.0))


def _continuing(tail: str, answer: str) -> str:
  """The answer as a continuation of `tail`, its beginning in the prompt."""
  if not tail:
    return answer
  thought, closed, rest = thoughts.cut(answer)
  if thoughts.CLOSE in tail:  # the template forbids thoughts
    return rest.lstrip() if closed else answer
  if not closed:  # without a thought: the answer must not become one
    return f"\n</think>\n\n{answer}"
  thought = thought.lstrip().removeprefix(thoughts.OPEN).removeprefix("\n")
  return thought + closed + rest


def end_of_answer(template: str, tokenizer: Tokenizer) -> int:
  """The id that ends an answer: the one that the chat template writes there.

  If it writes none: for a wording the last of the tokenizer's `eos_ids` in it,
  otherwise the smallest of `eos_ids`.
  """
  end = templates.turn_end(template, tokenizer)
  if end is not None:
    return end
  text = template if templates.is_wording(template) else ""
  for token in reversed(tokenizer.encode_chat(text)):
    if token in tokenizer.eos_ids:
      return token
  return min(tokenizer.eos_ids)


def encode(spans: Sequence[Span], template: str, tokenizer: Tokenizer,
           eos_id: int, weight: float = 1.0) -> Example:
  """The ids of a dialogue.

  Spans are tokenized separately, as prompt and completion are when sampling.

  Args:
    spans: of one sequence, from `dialogues`.
    template: as `templates.prompt` takes it.
    tokenizer: the model's.
    eos_id: `end_of_answer` of template and tokenizer.
    weight: factor of the loss of all answers.
  """
  ids: list[int] = []
  factors: list[float] = []  # 0 for tokens that are not targets
  answered = False
  for text, train, factor in spans:
    if train:
      part = [*tokenizer.encode(text), eos_id]
    else:
      part = templates.encode(text, template, tokenizer, begins=not ids)
      # The answer's eos_id is there already; the template writes it again.
      if answered and part[:1] == [eos_id]:
        part = part[1:]
    ids += part
    factors += [factor if train else 0.0] * len(part)
    answered = train
  factors_n = np.array(factors, np.float32)
  trained = factors_n > 0
  alike = (factors_n[trained] == 1).all()
  return Example(np.array(ids, np.int32), trained,
                 weight if alike else weight * factors_n)


def load(paths: Sequence[str | os.PathLike], tokenizer: Tokenizer,
         template: str, capacity: int,
         weights: Mapping[str, float] | None = None) -> Data:
  """Reads all rows of the files as ids, in order, into memory.

  Args:
    paths: JSONL files, local or gs://.
    tokenizer: the model's.
    template: how messages become text, as `templates.prompt` takes it.
    capacity: T, slots in a row; longer examples are left out and counted.
    weights: source -> factor of the loss of its rows. If given, it must have
      every source; rows without a source count 1.

  Raises:
    ValueError: an unknown template.
    DataError: a file that cannot be read or is empty, an empty answer, a source
      without weight, more than 1 % malformed rows, or no example is left.
  """
  # An unknown template is an error, not the fault of every row.
  templates.prompt(ask(""), template, tokenizer)
  eos_id = end_of_answer(template, tokenizer)
  examples, malformed, total, too_long = [], [], 0, 0
  sources, unread = set(), set()
  for path in paths:
    before = total
    for where, row in read(path):
      total += 1
      try:
        sequences = checked(where, row, template, tokenizer)
      except Malformed as error:
        malformed.append(str(error))
        continue
      sources.add(row.source)
      unread |= row.unread
      weight = row.weight * weight_of(where, row.source, weights)
      for spans in sequences:
        example = encode(spans, template, tokenizer, eos_id, weight)
        if len(example.tokens) - 1 > capacity:
          too_long += 1
        else:
          examples.append(example)
    check_any(path, total - before)
  check_rows(paths, malformed, total, len(examples), capacity)
  return Data(examples, too_long, malformed, frozenset(sources - {""}),
              sum(int(e.trained.sum()) for e in examples), frozenset(unread))


def check_rows(paths: Sequence[str | os.PathLike], malformed: Sequence[str],
               total: int, kept: int, capacity: int) -> None:
  """Raises DataError if too many rows are malformed, or nothing is left."""
  listed = "\n  ".join(malformed[:_SHOWN])
  check(len(malformed) <= MALFORMED * total,
        f"{len(malformed)} of {total} rows are malformed, more than"
        f" {MALFORMED:.0%}; repair or remove them:\n  {listed}", DataError)
  check(kept > 0,
        f"{', '.join(map(str, paths))}: none of {total} rows fits a row of"
        f" {capacity} tokens; raise --row_length or give other files",
        DataError)


class Malformed(ValueError):
  """A malformed row, which may be left out."""


def checked(where: str, row: Row | str, template: str, tokenizer: Tokenizer
            ) -> list[list[Span]]:
  """The `dialogues` of a row of `read`.

  Raises:
    Malformed: the row is malformed and may be left out.
    DataError: an answer is empty, which is never left out silently.
  """
  if isinstance(row, str):
    raise Malformed(f"{where}: {row}")
  messages = row.messages
  try:
    check_turns(messages)
  except ValueError as error:
    raise Malformed(f"{where}: {error}") from error
  check(all(m["content"].strip() for m in messages if m["role"] == "assistant"),
        f"{where}: an answer is empty; remove the row", DataError)
  try:
    return dialogues(messages, template, tokenizer)
  except ValueError as error:
    raise Malformed(f"{where}: {error}") from error


def check_turns(messages: Sequence[Message]) -> None:
  """Raises ValueError if a dialogue begins, or does not end, with an answer."""
  first, last = messages[0]["role"], messages[-1]["role"]
  check(first != "assistant" and last == "assistant", f"it begins with {first}"
        f" and ends with {last}; an answer must end it, not begin it")


def source_weights(text: str) -> dict[str, float]:
  """Parses `math:2,code:0.5` into {source: weight}.

  Raises:
    ValueError: the text has another form, or a weight is not
      positive, or a name is there twice.
  """
  weights = {}
  for part in filter(None, text.split(",")):
    name, _, value = part.rpartition(":")
    name = name.strip()
    check(name not in weights, f"source_weights={text!r} names {name} twice")
    try:
      weights[name] = float(value)
    except ValueError:
      weights[name] = math.nan
    check(bool(name) and 0 < weights[name] < math.inf,
          f"source_weights={text!r}: {part!r} is not NAME:WEIGHT with a"
          " positive weight, as in math:2,code:0.5")
  return weights


def digest(path: str | os.PathLike) -> str:
  """Digest of a file's contents, 16 hex digits.

  A run is only resumed with the same data.

  Raises:
    DataError: the file cannot be read.
  """
  hasher = hashlib.sha256()
  with json_rows.reading(path), io.opened(path) as file:
    while block := file.read(2**20):
      hasher.update(block)
  return hasher.hexdigest()[:16]


def weight_of(where: str, source: str, weights: Mapping[str, float] | None
              ) -> float:
  """The factor of the loss of a row from `source`.

  Raises:
    DataError: `weights` lacks the source; the message begins with `where`.
  """
  if not weights or not source:
    return 1.0
  check(source in weights, f"{where}: source {source!r} has no weight; add"
        f" {source}:1 to --source_weights, which has {', '.join(weights)}",
        DataError)
  return weights[source]


def ahead(dataset: grain.MapDataset, workers: int) -> Iterator[Any]:
  """The elements of a data set in order, prefetched.

  Args:
    dataset: is pickled and sent to the workers.
    workers: number of processes that make the elements; 0 for a thread.
      Processes need absl's flags to be parsed and end when the iterator is
      closed. SIGINT and SIGTERM are blocked in them from the start, because
      the main process handles them and saves a checkpoint.
  """
  made = dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  if not workers:
    yield from iter(made)
    return
  made = made.mp_prefetch(grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=2))
  # Now, because starting it unblocks the two signals.
  resource_tracker.ensure_running()
  with contextlib.closing(iter(made)) as elements:
    # Workers start when the first element is requested and inherit the mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK,
                                  (signal.SIGINT, signal.SIGTERM))
    try:
      first = list(itertools.islice(elements, 1))
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    yield from first
    yield from elements


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
  """Packed batches of examples, each a pure function of its number.

  An epoch has every example once, uncut, in an order drawn from (seed, epoch).
  A batch may span two epochs; after the last epoch rows are empty.

  Attributes:
    examples: at least one.
    rows: B.
    capacity: T, at least the tokens of the longest example - 1.
    seed: of the order, not negative.
    epochs: passes over the examples; None for endless.
  """

  examples: Sequence[Example]
  rows: int
  capacity: int
  seed: int = 0
  epochs: int | None = None

  @functools.lru_cache(maxsize=2)  # noqa: B019 - one instance per run
  def plan(self, epoch: int) -> list[list[int]]:
    """The indices of the examples in each row of an epoch."""
    rng = np.random.default_rng((self.seed, epoch))
    order = rng.permutation(len(self.examples))
    plan = []
    for start in range(0, len(order), _CHUNK):
      part = order[start:start + _CHUNK]
      rows = fitting.best_fit(self.slots_E[part], self.capacity)
      plan += [part[rows[i]].tolist() for i in rng.permutation(len(rows))]
    return plan

  @functools.cached_property
  def slots_E(self) -> np.ndarray:
    """int [E], the slots that each example takes in a row."""
    return lengths(self.examples) - 1

  @functools.cached_property
  def starts(self) -> list[int]:
    """The first row of each epoch planned so far, and of the next; a cache."""
    return [0]

  def steps(self) -> int:
    """The number of batches in all epochs; `epochs` must be set."""
    return -(-self._start(self.epochs) // self.rows)

  def batch(self, number: int) -> TokenBatch:
    """Batch `number`, from 0: NumPy arrays [rows, capacity]."""
    first = number * self.rows
    rows = [self._row(i) for i in range(first, first + self.rows)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

  def stream(self, first: int, end: int, workers: int = 0
             ) -> Iterator[TokenBatch]:
    """Batches first..end-1, prefetched; close the iterator, see `ahead`."""
    return ahead(grain.MapDataset.range(first, end).map(self.batch), workers)

  def _start(self, epoch: int) -> int:
    while len(self.starts) <= epoch:
      last = len(self.starts) - 1
      self.starts.append(self.starts[last] + len(self.plan(last)))
    return self.starts[epoch]

  def _row(self, number: int) -> TokenBatch:
    if self.epochs is not None and number >= self._start(self.epochs):
      return self.packed([])
    epoch = int(np.searchsorted(self.starts, number, "right")) - 1
    while self._start(epoch + 1) <= number:
      epoch += 1
    chosen = self.plan(epoch)[number - self._start(epoch)]
    return self.packed([self.examples[i] for i in chosen])

  def packed(self, examples: Sequence[Example]) -> TokenBatch:
    """The examples packed into one row."""
    row = packing.pack([packing.Sequence(
        tokens=e.tokens, weights=np.float32(e.weight) * e.trained)
        for e in examples], self.capacity, rows=1)
    return row if examples else row.replace(weights_BT=row.mask_BT)
