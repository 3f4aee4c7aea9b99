"""Text to token ids and back."""

from __future__ import annotations

import io as bytes_io
import os
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import sentencepiece
from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.thoughts import TAGS

FOLDER = "tokenizer"  # of a workdir, where a run keeps its own
# Before a character of a rendered chat: that is text and begins no control
# token. Unicode keeps it for use inside of programs.
ESCAPE = "\ufdd0"
_MARK = "\ufffd"  # what bytes that are no character (yet) decode to


class Tokenizer(Protocol):
  """What the rest of the code asks of a tokenizer; picklable.

  Attributes:
    vocab_size: largest id + 1; the model's vocabulary may be larger (padded).
    pad_id: for the files of other programs alone. Masks come from lengths, so
      it may equal an end (many open models have no other).
    bos_id: begins every text; None where the model was trained without one.
    eos_ids: generation ends at any of these.
    chat_template: Jinja source of the model's own, or None.
    special_tokens: the template's variables: "bos_token", "eos_token", ...
    control_tokens: strings that `encode_chat` turns into control ids.
    date: YYYY-MM-DD that chat templates which tell the date take for today;
      "" is the day that it is.
    files: the contents it was loaded from, by file name.
  """

  vocab_size: int
  pad_id: int
  bos_id: int | None
  eos_ids: frozenset[int]
  chat_template: str | None
  special_tokens: Mapping[str, str]
  control_tokens: frozenset[str]
  date: str
  files: Mapping[str, bytes]

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without bos or eos; decode(encode(text)) == text.

    Some models' own normalization is lossy (Qwen: NFC). Text never becomes a
    control id, whatever it spells.
    """

  def encode_chat(self, text: str) -> list[int]:
    """Ids of a rendered chat, whose control tokens become their ids.

    Not where `escaped` made them text.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; control ids and ids it does not know give nothing."""


def escaped(text: str, control_tokens: Collection[str]) -> str:
  """What somebody wrote, to be set into a chat: `encode_chat` reads it as text.

  `ESCAPE` stands before every place at which a control token begins, and before
  itself.
  """
  there = [token for token in control_tokens if token in text]
  if not control_tokens or not there and ESCAPE not in text:
    return text
  return re.sub(f"(?={'|'.join(map(re.escape, [ESCAPE, *there]))})", ESCAPE,
                text)


class TextStream:
  """Decodes ids as they come, never showing half a character.

      stream = TextStream(tokenizer)
      shown = "".join(map(stream.add, pieces)) + stream.end()

  `shown` is tokenizer.decode of all ids, however they are cut into pieces.
  (Byte pieces that form no character can differ: a decoder of runs of bytes
  replaces the whole run, the beginning of which may have been shown.)
  """

  def __init__(self, tokenizer: Tokenizer):
    self._tokenizer = tokenizer
    # Ids since the text before last was complete: what follows may depend on
    # its neighbour (a space at the start of a text is dropped), not on more.
    self._ids: list[int] = []
    self._last = 0  # of them, those whose text was shown
    self._shown = 0  # characters of their text that were

  def add(self, ids: Iterable[int]) -> str:
    """The text that `ids` complete; may be empty."""
    self._ids += [int(i) for i in ids]
    text = self._tokenizer.decode(self._ids)
    end = len(text.rstrip(_MARK))
    new, self._shown = text[self._shown:end], max(end, self._shown)
    if new and end == len(text):
      self._ids = self._ids[self._last:]
      self._last = len(self._ids)
      self._shown = len(self._tokenizer.decode(self._ids))
    return new

  def end(self) -> str:
    """What was held back; the stream is over."""
    return self._tokenizer.decode(self._ids)[self._shown:]


class SentencePieceTokenizer:
  """A SentencePiece model; it has no chat template."""

  chat_template = None
  date = ""
  special_tokens: Mapping[str, str] = types.MappingProxyType({})
  control_tokens: frozenset[str] = frozenset()

  def __init__(self, model: str | os.PathLike | bytes):
    """Loads a model from a path (local or gs://) or from its bytes.

    Raises:
      ValueError: the file is missing, is not a SentencePiece model, or lacks a
        bos or eos id of its own.
    """
    name = "the given bytes" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes):
      try:
        model = epath.Path(model).read_bytes()
      except OSError as error:
        raise ValueError(
            f"tokenizer {name} cannot be read"
            f" ({error.strerror or error}); make one with"
            " python -m experiments.train_tokenizer --out=FILE") from error
    self.files = {"tokenizer.model": model}
    self._pieces = _load(model, name)
    self.vocab_size = self._pieces.vocab_size()
    self.bos_id, eos = self._pieces.bos_id(), self._pieces.eos_id()
    self.eos_ids = frozenset({eos})
    special = {self.bos_id, self._pieces.unk_id(), eos}
    if len(special) < 3 or min(special) < 0:
      raise ValueError(
          f"tokenizer {name} needs distinct unk, bos and eos ids; train it"
          " with python -m experiments.train_tokenizer --out=FILE")
    self.pad_id = self._pieces.pad_id() if self._pieces.pad_id() >= 0 else eos

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without bos or eos."""
    return self._pieces.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of each text, with less overhead."""
    return self._pieces.encode(list(texts), num_threads=1)

  # It reads every text as text: no string is a control token.
  encode_chat = encode

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids` (any integers, also NumPy's)."""
    known = [int(i) for i in ids if 0 <= i < self.vocab_size]
    return self._pieces.decode(known)

  def __reduce__(self):
    return SentencePieceTokenizer, tuple(self.files.values())


def _load(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
  try:
    if not model:
      raise RuntimeError("it is empty")
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.load_from_serialized_proto(model)
    return pieces
  except RuntimeError as error:
    raise ValueError(
        f"tokenizer {name} is not a SentencePiece model ({error}); train it"
        " anew with python -m experiments.train_tokenizer --out=FILE"
    ) from error


def check_fits(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Raises ValueError if the tokenizer has ids that the model lacks.

  Also ids that it only names: generation_config.json may be another model's.
  """
  if tokenizer.vocab_size > vocab_size:
    raise ValueError(
        f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocabulary"
        f" only {vocab_size}; choose a model with vocab_size >="
        f" {tokenizer.vocab_size} or train a smaller tokenizer")
  named = tokenizer.eos_ids | {tokenizer.pad_id} | (
      set() if tokenizer.bos_id is None else {tokenizer.bos_id})
  outside = sorted(i for i in named if not 0 <= i < vocab_size)
  check(not outside, f"the tokenizer names the ids {outside} (ends of a text in"
        " generation_config.json, its beginning, or padding), the model's"
        f" vocabulary has {vocab_size}; take the files of one model")


def keep(tokenizer: Tokenizer, workdir: str | os.PathLike) -> None:
  """Writes the tokenizer's files into `workdir`, which then is complete.

  Raises:
    ValueError: the run was begun with another tokenizer; nothing was changed.
  """
  folder = epath.Path(workdir) / FOLDER
  if folder.exists():
    stored = {path.name: path.read_bytes() for path in folder.iterdir()
              if not path.name.endswith(".part")}
    if any(tokenizer.files.get(name) != data for name, data in stored.items()):
      raise ValueError(
          f"{folder} is another tokenizer; nothing was changed; resume the run"
          f" with --tokenizer={folder} or choose another --workdir")
  for name, data in tokenizer.files.items():
    if not (folder / name).exists():
      io.write_bytes(folder / name, data)


def train(
    texts: Iterable[str], vocab_size: int, out: str | os.PathLike) -> None:
  """Trains a BPE SentencePiece model and writes it to `out`.

  Digits are split, the four tags are whole, bytes stand in for unseen
  characters, whitespace is kept as it is: encoding is lossless.

  Raises:
    ValueError: SentencePiece cannot make `vocab_size` pieces from `texts`.
  """
  model = bytes_io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model,
        vocab_size=vocab_size, model_type="bpe", character_coverage=1.0,
        split_digits=True, byte_fallback=True, user_defined_symbols=list(TAGS),
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, pad_id=0, unk_id=1, bos_id=2, eos_id=3,
        num_threads=1, minloglevel=2)
  except RuntimeError as error:
    raise ValueError(
        f"no tokenizer with vocab_size={vocab_size} from these texts: {error};"
        " it needs 264 special and byte pieces, every character of the texts,"
        " and texts varied enough to fill the rest") from error
  io.write_bytes(out, model.getvalue())


def check_same(own: Tokenizer, other: Tokenizer, whose: str) -> None:
  """Raises ValueError unless `other` reads the ids of `own` as the same text.

  Files may differ, and templates; ids may not. `other` may have more of them.

  Args:
    own: of who writes.
    other: of who reads.
    whose: the other is, for the message.
  """
  if own.files == other.files:
    return
  remedy = (f"{whose} must have the tokenizer of --init: ids travel between"
            " them, not text")
  check(own.vocab_size <= other.vocab_size, f"the tokenizers differ: one has"
        f" {own.vocab_size} ids, the other {other.vocab_size}; {remedy}")
  for i in range(own.vocab_size):
    here, there = own.decode([i]), other.decode([i])
    check(here == there, f"the tokenizers differ: id {i} is {here!r} for one,"
          f" {there!r} for the other; {remedy}")
