"""The tokenizer protocol, SentencePiece tokenizers, and checks of them."""

from __future__ import annotations

import hashlib
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

FOLDER = "tokenizer"  # the folder of a run's tokenizer in its workdir
# In a rendered chat: the next character is text and begins no control token. A
# noncharacter, which Unicode reserves for internal use.
ESCAPE = "\ufdd0"
_MARK = "\ufffd"  # incomplete or invalid UTF-8 decodes to it


class Tokenizer(Protocol):
  """The interface of tokenizers; they are picklable.

  Attributes:
    vocab_size: largest id + 1; the model's vocabulary may be larger (padded).
    pad_id: only written to files for other programs. Masks are made from
      lengths, so it may equal an eos id (many open models have no other).
    bos_id: begins every text; None if the model was trained without one.
    eos_ids: generation ends at any of these.
    chat_template: Jinja source of the model's chat template, or None.
    special_tokens: variables for the template: "bos_token", "eos_token", ...
    control_tokens: strings that `encode_chat` converts to single ids.
    date: YYYY-MM-DD that chat templates see as today; "" for the machine's
      date.
    files: file name -> contents, as loaded.
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
    """Ids of `text`, without bos or eos; never the id of a control token.

    decode(encode(text)) == text, unless the model's normalization is lossy
    (Qwen: NFC).
    """

  def encode_chat(self, text: str) -> list[int]:
    """Ids of a rendered chat, where control tokens become their ids.

    Those that `escaped` has marked stay text.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; control tokens and unknown ids are skipped."""


def escaped(text: str, control_tokens: Collection[str]) -> str:
  """User text to be put into a chat, which `encode_chat` reads as plain text.

  `ESCAPE` is inserted before every control token and before every `ESCAPE`.
  """
  there = [token for token in control_tokens if token in text]
  if not control_tokens or not there and ESCAPE not in text:
    return text
  return re.sub(f"(?={'|'.join(map(re.escape, [ESCAPE, *there]))})", ESCAPE,
                text)


class TextStream:
  """Decodes ids incrementally and never returns part of a character.

      stream = TextStream(tokenizer)
      shown = "".join(map(stream.add, pieces)) + stream.end()

  `shown` equals tokenizer.decode of all ids, however they are divided into
  pieces. (Except for byte tokens that form no character: the decoder may
  replace a whole run of bytes, whose beginning was already returned.)
  """

  def __init__(self, tokenizer: Tokenizer):
    self._tokenizer = tokenizer
    # The ids of the last complete piece of text, and those after it. The piece
    # is needed since decoding can depend on the ids before (a space at the
    # start of a text is dropped).
    self._ids: list[int] = []
    self._last = 0  # how many of them belong to that piece
    self._shown = 0  # characters of their text that were returned

  def add(self, ids: Iterable[int]) -> str:
    """The new text that is complete after `ids`; may be empty."""
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
    """The remaining text, at the end of the stream."""
    return self._tokenizer.decode(self._ids)[self._shown:]


class SentencePieceTokenizer:
  """A SentencePiece model, without chat template and control tokens."""

  chat_template = None
  date = ""
  special_tokens: Mapping[str, str] = types.MappingProxyType({})
  control_tokens: frozenset[str] = frozenset()

  def __init__(self, model: str | os.PathLike | bytes):
    """Loads a model from a path (local or gs://) or from its bytes.

    Raises:
      ValueError: the file cannot be read, is not a SentencePiece model, or does
        not have three different ids for unk, bos and eos.
    """
    name = "the given bytes" if isinstance(model, bytes) else str(model)
    if not isinstance(model, bytes):
      try:
        model = io.read_bytes(model)
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

  # The same, since there are no control tokens.
  encode_chat = encode

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids` (Python or NumPy integers); unknown ids are skipped."""
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
        f"tokenizer {name} is not a SentencePiece model ({error}); train one"
        " with python -m experiments.train_tokenizer --out=FILE"
    ) from error


def check_fits(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Raises ValueError if the tokenizer has ids outside the model's vocabulary.

  Checks eos, bos and pad ids too, since generation_config.json may be from
  another model.
  """
  if tokenizer.vocab_size > vocab_size:
    raise ValueError(
        f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocabulary"
        f" only {vocab_size}; choose a model with vocab_size >="
        f" {tokenizer.vocab_size} or train a smaller tokenizer")
  named = tokenizer.eos_ids | {tokenizer.pad_id} | (
      set() if tokenizer.bos_id is None else {tokenizer.bos_id})
  outside = sorted(i for i in named if not 0 <= i < vocab_size)
  check(not outside, f"the tokenizer's eos, bos or pad ids {outside} are not in"
        f" the model's vocabulary of {vocab_size}; take all files (also"
        " generation_config.json) from the same model")


def keep(tokenizer: Tokenizer, workdir: str | os.PathLike) -> None:
  """Writes the tokenizer's files into the folder `FOLDER` of `workdir`.

  Files that are there already are not written again.

  Raises:
    ValueError: the folder has another tokenizer; nothing was changed.
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


def digest(tokenizer: Tokenizer) -> str:
  """A short hash of the files that define the tokenizer."""
  hasher = hashlib.sha256()
  for name, data in sorted(tokenizer.files.items()):
    hasher.update(f"{name} {len(data)}\n".encode() + data)
  return hasher.hexdigest()[:16]


def train(
    texts: Iterable[str], vocab_size: int, out: str | os.PathLike) -> None:
  """Trains a BPE SentencePiece model and writes it to `out`.

  Each digit is a piece, each of the four tags is one piece, unseen characters
  become byte pieces, and whitespace is kept, so encoding is lossless.

  Args:
    texts: training texts.
    vocab_size: number of pieces.
    out: path of the model file, local or gs://.

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
  """Raises ValueError unless every id of `own` is the same text in `other`.

  Files and templates may differ, and `other` may have more ids.

  Args:
    own: tokenizer of the process that sends ids.
    other: tokenizer of the process that receives them.
    whose: names the owner of `other` in the message.
  """
  if own.files == other.files:
    return
  remedy = (f"{whose} must have the tokenizer of --init, because they exchange"
            " ids, not text")
  check(own.vocab_size <= other.vocab_size, f"the tokenizers differ: one has"
        f" {own.vocab_size} ids, the other {other.vocab_size}; {remedy}")
  for i in range(own.vocab_size):
    here, there = own.decode([i]), other.decode([i])
    check(here == there, f"the tokenizers differ: id {i} is {here!r} in one,"
          f" {there!r} in the other; {remedy}")
