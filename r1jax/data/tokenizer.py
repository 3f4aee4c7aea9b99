"""Text to token ids and back."""

from __future__ import annotations

import io as bytes_io
import os
from collections.abc import Iterable, Sequence
from typing import Protocol

import sentencepiece
from etils import epath

from r1jax.core import io

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Tokenizer(Protocol):
  """What the rest of the code asks of a tokenizer.

  `pad_id` is never produced by `encode`. Generation ends at any of `eos_ids`.
  """

  vocab_size: int
  pad_id: int
  bos_id: int
  eos_ids: frozenset[int]

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without bos or eos; decode(encode(text)) == text."""

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids`; pad, bos and eos give nothing."""


class SentencePieceTokenizer:
  """A SentencePiece model; picklable, so that worker processes can hold one."""

  def __init__(self, model: str | os.PathLike | bytes):
    """Loads a model from a path (local or gs://) or from its bytes.

    Raises:
      ValueError: the file is missing, is not a SentencePiece model, or lacks a
        pad, bos or eos id of its own.
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
    self._model = model
    self._pieces = _load(model, name)
    self.vocab_size = self._pieces.vocab_size()
    self.pad_id = self._pieces.pad_id()
    self.bos_id = self._pieces.bos_id()
    self.eos_ids = frozenset({self._pieces.eos_id()})
    special = {self.pad_id, self.bos_id, self._pieces.unk_id(), *self.eos_ids}
    if len(special) < 4 or min(special) < 0:
      raise ValueError(
          f"tokenizer {name} needs distinct pad, unk, bos and eos ids; train it"
          " with python -m experiments.train_tokenizer --out=FILE")

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without bos or eos."""
    return self._pieces.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """`encode` of each text, with less overhead."""
    return self._pieces.encode(list(texts), num_threads=1)

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids` (any integers, also NumPy's); control ids give nothing."""
    return self._pieces.decode([int(i) for i in ids])

  def __reduce__(self):
    return SentencePieceTokenizer, (self._model,)


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
  """Raises ValueError if the tokenizer has ids that the model lacks."""
  if tokenizer.vocab_size > vocab_size:
    raise ValueError(
        f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocabulary"
        f" only {vocab_size}; choose a model with vocab_size >="
        f" {tokenizer.vocab_size} or train a smaller tokenizer")


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
