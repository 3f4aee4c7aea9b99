"""Supervised examples: rows of JSONL files to packed, weighted batches.

What assistants say is trained, each answer up to and including its
end-of-sequence id; nothing else is. `sft_rows` says what a row may be.
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
from etils import epath

from r1jax.core import thoughts
from r1jax.core.config import check
from r1jax.core.prompt import ask
from r1jax.core.types import TokenBatch
from r1jax.data.sources.sft_rows import Message, Row, check_any, read
from r1jax.data.streams import packing
from r1jax.data.text import chat, templates
from r1jax.data.text.tokenizer import Tokenizer, escaped

MALFORMED = 0.01  # largest share of malformed rows that is left out

# Examples packed together: more fill rows better, fewer mix better.
_CHUNK = 512
_SHOWN = 10  # malformed rows that are named


class Span(NamedTuple):
  """A piece of a dialogue's text.

  Attributes:
    text: it.
    trained: whether it is a whole answer.
    weight: factor of the loss of an answer.
  """

  text: str
  trained: bool
  weight: float = 1.0


class Example(NamedTuple):
  """A dialogue as ids.

  Attributes:
    tokens: int32 [n], bos first where the tokenizer has one.
    trained: bool [n], which of them are targets.
    weight: factor of their loss, of all or float32 [n] of each.
  """

  tokens: np.ndarray
  trained: np.ndarray
  weight: float | np.ndarray


class Data(NamedTuple):
  """What files hold, and what of it is left out.

  Attributes:
    examples: those that fit a row, in memory or read when asked for.
    too_long: number of those that do not.
    malformed: a line `FILE:LINE: reason` for each row left out as such.
    sources: that rows name.
    trained: tokens that are targets.
    unread: fields of rows that nothing reads.
  """

  examples: Sequence[Example]
  too_long: int
  malformed: list[str]
  sources: frozenset[str]
  trained: int
  unread: frozenset[str] = frozenset()

  def explain(self, name: str) -> str:
    """What was read, in words."""
    tokens = int(lengths(self.examples).sum())
    lines = [f"{name}: {len(self.examples)} examples, {tokens} tokens,"
             f" {self.trained} of them trained"]
    if self.too_long:
      lines.append(f"{self.too_long} examples are longer than a row and left"
                   " out; to use them, raise --row_length")
    if self.unread:
      lines.append("fields of rows that are not read: "
                   + ", ".join(sorted(self.unread)))
    if self.malformed:
      lines.append(f"{len(self.malformed)} malformed rows are left out:")
      lines += [f"  {line}" for line in self.malformed[:_SHOWN]]
    return "\n".join(lines)


def lengths(examples: Sequence[Example]) -> np.ndarray:
  """Tokens of each example."""
  known = getattr(examples, "lengths_E", None)  # of those that are streamed
  return np.array([len(e.tokens) for e in examples]) if known is None else known


def dialogues(messages: Sequence[Message], template: str, tokenizer: Tokenizer
              ) -> list[list[Span]]:
  """Messages as the spans of one sequence or of several.

  Every answer follows the very text that a sampler would continue. Where a chat
  template rewrites former turns (R1's drops their thoughts) each answer becomes
  a sequence of its own, else all answers share one. The plain templates have no
  turns: every question is set into the template anew.

  Args:
    messages: roles and contents, answers not empty.
    template: as `templates.prompt` takes it.
    tokenizer: whose chat template it may be.

  Raises:
    ValueError: the template refuses the messages.
  """
  found = templates.chat_of(template)
  if found is None:
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
  check(message["role"] != "system", "a template that is no chat has no place"
        " for a system message")
  if message["role"] == "user":
    text = templates.asked(text, template, tokenizer)
    return Span(templates.render(text, template), False)
  text = _continuing(templates.tail(template), text)
  # Completions begin with a space, unless the template ends with one.
  spaced = text[0].isspace() or templates.render("", template)[-1].isspace()
  return Span(text if spaced else f" {text}", True, message.get("weight", 1.0))


def _continuing(tail: str, answer: str) -> str:
  """The answer without what the prompt has begun of it, a thought or none."""
  if not tail:
    return answer
  thought, closed, rest = thoughts.cut(answer)
  if thoughts.CLOSE in tail:  # the template forbids thoughts
    return rest.lstrip() if closed else answer
  if not closed:  # an answer without thoughts must not be taken for one
    return f"\n</think>\n\n{answer}"
  thought = thought.lstrip().removeprefix(thoughts.OPEN).removeprefix("\n")
  return thought + closed + rest


def end_of_answer(template: str, tokenizer: Tokenizer) -> int:
  """The id that ends an answer: the one that the template writes behind it.

  Else the last of the tokenizer's ends in a wording, or the least of them.
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
  """Ids of a dialogue; spans are encoded apart, as prompt and answer are."""
  ids: list[int] = []
  factors: list[float] = []  # 0 of what is no target
  answered = False
  for text, train, factor in spans:
    if train:
      part = [*tokenizer.encode(text), eos_id]
    else:
      part = templates.encode(text, template, tokenizer, begins=not ids)
      # The template's own end of the answer before is there already.
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
  """All rows of the files as ids, in order; held in memory.

  Args:
    paths: JSONL files, local or gs://.
    tokenizer: of the model.
    template: how messages become text, as `templates.prompt` takes it.
    capacity: T; an example longer than a row is left out and counted.
    weights: source -> factor of the loss of its rows. If given it must
      name every source; rows without one count 1.

  Raises:
    ValueError: an unknown template, a file that cannot be read, an empty
      answer, a source without weight, more than 1 % malformed rows, or nothing
      to learn from.
  """
  # Refuses what rows cannot mend.
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
  """Raises ValueError if too many rows are malformed, or nothing is left."""
  listed = "\n  ".join(malformed[:_SHOWN])
  check(len(malformed) <= MALFORMED * total,
        f"{len(malformed)} of {total} rows are malformed, more than"
        f" {MALFORMED:.0%}; mend them or leave them out:\n  {listed}")
  check(kept > 0,
        f"{', '.join(map(str, paths))}: none of {total} rows fits a row of"
        f" {capacity} tokens; raise --row_length or give other files")


class Malformed(ValueError):
  """A row that can be left out."""


def checked(where: str, row: Row | str, template: str, tokenizer: Tokenizer
            ) -> list[list[Span]]:
  """The dialogues of a row of `read`.

  Raises:
    Malformed: it can be left out.
    ValueError: it cannot: an empty answer would be taught.
  """
  if isinstance(row, str):
    raise Malformed(f"{where}: {row}")
  messages = row.messages
  try:
    check_turns(messages)
  except ValueError as error:
    raise Malformed(f"{where}: {error}") from error
  check(all(m["content"].strip() for m in messages if m["role"] == "assistant"),
        f"{where}: an answer is empty; leave the row out")
  try:
    return dialogues(messages, template, tokenizer)
  except ValueError as error:
    raise Malformed(f"{where}: {error}") from error


def check_turns(messages: Sequence[Message]) -> None:
  """Raises ValueError unless an answer ends a dialogue and none begins it."""
  first, last = messages[0]["role"], messages[-1]["role"]
  check(first != "assistant" and last == "assistant", f"it begins with {first}"
        f" and ends with {last}; an answer must end it, not begin it")


def source_weights(text: str) -> dict[str, float]:
  """`math:2,code:0.5` as a dictionary.

  Raises:
    ValueError: it is not of that form, or a weight is not positive.
  """
  weights = {}
  for part in filter(None, text.split(",")):
    name, _, value = part.rpartition(":")
    try:
      weights[name.strip()] = float(value)
    except ValueError:
      weights[name.strip()] = math.nan
    check(bool(name.strip()) and 0 < weights[name.strip()] < math.inf,
          f"source_weights={text!r}: {part!r} is not NAME:WEIGHT with a"
          " positive weight, as in math:2,code:0.5")
  return weights


def digest(path: str | os.PathLike) -> str:
  """Of a file's contents: a run goes on only with the data it began with."""
  hasher = hashlib.sha256()
  with epath.Path(path).open("rb") as file:
    while block := file.read(2**20):
      hasher.update(block)
  return hasher.hexdigest()[:16]


def weight_of(where: str, source: str, weights: Mapping[str, float] | None
              ) -> float:
  """Factor of the loss of a row."""
  if not weights or not source:
    return 1.0
  check(source in weights, f"{where}: source {source!r} has no weight; add"
        f" {source}:1 to --source_weights, which has {', '.join(weights)}")
  return weights[source]


def ahead(dataset: grain.MapDataset, workers: int) -> Iterator[Any]:
  """The elements of a data set in order, made ahead of their use.

  Args:
    dataset: goes to the workers as it is.
    workers: processes that make them; 0 does it in a thread. Processes end when
      the iterator is closed. They need absl's flags to be parsed. SIGINT and
      SIGTERM are for the process that saves: they are blocked in workers from
      their first moment on.
  """
  made = dataset.to_iter_dataset(
      grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  if not workers:
    yield from iter(made)
    return
  made = made.mp_prefetch(grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=2))
  # Starting it would unblock the two signals.
  resource_tracker.ensure_running()
  with contextlib.closing(iter(made)) as elements:
    # Workers start with the first element, and inherit the mask.
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
  """Examples in batches; every batch follows from its number alone.

  Epoch e goes through all examples in an order drawn from (seed, e). Batches
  run across epochs, each example comes once an epoch, whole; behind the last
  epoch rows are empty.

  Attributes:
    examples: at least one.
    rows: B.
    capacity: T, at least the length of every example less one.
    seed: of the order, not negative.
    epochs: passes over the examples; None for no end.
  """

  examples: Sequence[Example]
  rows: int
  capacity: int
  seed: int = 0
  epochs: int | None = None

  @functools.lru_cache(maxsize=2)  # noqa: B019 - one of these lives a run
  def plan(self, epoch: int) -> list[list[int]]:
    """The examples of each row of an epoch."""
    rng = np.random.default_rng((self.seed, epoch))
    order = rng.permutation(len(self.examples))
    plan = []
    for start in range(0, len(order), _CHUNK):
      part = order[start:start + _CHUNK]
      rows = packing.best_fit(self.slots_E[part], self.capacity)
      plan += [part[rows[i]].tolist() for i in rng.permutation(len(rows))]
    return plan

  @functools.cached_property
  def slots_E(self) -> np.ndarray:
    """Slots of a row that each example takes."""
    return lengths(self.examples) - 1

  @functools.cached_property
  def starts(self) -> list[int]:
    """Number of the first row of each epoch that was looked at, and the next.
    """
    return [0]

  def steps(self) -> int:
    """Batches until the last epoch is over."""
    return -(-self._start(self.epochs) // self.rows)

  def batch(self, number: int) -> TokenBatch:
    """Batch `number`, from 0: NumPy arrays [rows, capacity]."""
    first = number * self.rows
    rows = [self._row(i) for i in range(first, first + self.rows)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

  def stream(self, first: int, end: int, workers: int = 0
             ) -> Iterator[TokenBatch]:
    """Batches first, ..., end - 1, made ahead; to be closed, see `ahead`."""
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
    """One row."""
    row = packing.pack([packing.Sequence(
        tokens=e.tokens, weights=np.float32(e.weight) * e.trained)
        for e in examples], self.capacity, rows=1)
    return row if examples else row.replace(weights_BT=row.mask_BT)
