"""Tokenizers of Hugging Face models: `tokenizer.json` and related files."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from r1jax.core import io
from r1jax.core.thoughts import TAGS
from r1jax.data.text.tokenizer import (
    ESCAPE,
    SentencePieceTokenizer,
    Tokenizer,
)

_JSON, _MODEL = "tokenizer.json", "tokenizer.model"
_GENERATION, _CONFIG = "generation_config.json", "config.json"
DATE = "date.txt"  # the fixed date for chat templates that tell today's date
_FILES = (_JSON, "tokenizer_config.json", "special_tokens_map.json",
          _GENERATION, "chat_template.jinja", DATE)
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Strings that look like control tokens: <|im_start|>, <｜User｜>.
_CONTROL = re.compile(r"<[|｜].*[|｜]>")


def load(path: str | os.PathLike) -> Tokenizer:
  """The tokenizer at `path`, local or gs://.

  Args:
    path: a model's folder, its tokenizer.json (the related files in the same
      folder are read too), or a SentencePiece model file. In a folder without
      tokenizer.json its tokenizer.model is read.

  Raises:
    ValueError: a file is missing or malformed; the message names it.
  """
  path = epath.Path(path)
  if path.is_dir():
    if not io.is_file(path / _JSON) and not io.is_file(path / _MODEL):
      raise ValueError(
          f"tokenizer {path}: the folder has neither {_JSON} nor {_MODEL};"
          " give --tokenizer=FILE or a folder that has one of them")
    path = path / (_JSON if io.is_file(path / _JSON) else _MODEL)
  if path.name == _JSON and io.is_file(path):
    files = {name: (path.parent / name).read_bytes() for name in _FILES
             if io.is_file(path.parent / name)}
    if io.is_file(path.parent / _CONFIG):
      files = _with_models_ends(
          files, (path.parent / _CONFIG).read_bytes(), str(path.parent))
    return HfTokenizer(files, str(path.parent))
  return SentencePieceTokenizer(path)


class HfTokenizer:
  """A `tokenizer.json`, with the special tokens that related files define.

  `bos_id` is set if texts begin with it: if `add_bos_token` is true, or, where
  that is not given, if the post-processor of tokenizer.json prepends it.
  `eos_ids` are the `eos_token` and every `eos_token_id` of
  generation_config.json (to which `load` adds those of config.json).
  `pad_id` is the `pad_token`, or the smallest of `eos_ids`.

  Differences from transformers: strings of the form <|...|> are control tokens
  even if the file does not mark them special, so that neither a question nor a
  completion can imitate the structure of a chat. The tags of the think and
  answer grammar are never control tokens, because rewards read them, nor are
  single characters. Decoding
  keeps spaces before punctuation. Truncation and padding settings that were
  saved in the file are turned off.

  Internally, control tokens are renamed: a random number drawn for this
  instance precedes and follows the name. So no text can contain one, neither as
  an added token, nor after the file's normalization, nor as a piece that the
  vocabulary lists (as those of Llama 2 and Gemma do).
  """

  def __init__(self, files: Mapping[str, bytes], name: str):
    """Builds the tokenizer from the contents of its files.

    Args:
      files: file name -> contents; tokenizer.json and, if they exist, the
        other files that `load` reads.
      name: the folder, for error messages.

    Raises:
      ValueError: a file is malformed, there is no end-of-sequence token, or a
        special token is not in the vocabulary.
    """
    self.files, self._name = dict(files), name
    config = self._json("tokenizer_config.json")
    sources = [self._json("special_tokens_map.json"), config]
    # Newer tokenizer configs replace the map, which may be out of date.
    if "added_tokens_decoder" in config:
      sources.reverse()
    self.special_tokens = _special(*sources)
    self.chat_template = self._template(config)
    self._mark = f":{secrets.token_hex(16)}:"
    self._pieces = self._parse()
    self.control_tokens = frozenset(
        token.content.split(self._mark)[1] for token in
        self._pieces.get_added_tokens_decoder().values() if token.special)
    self.vocab_size = 1 + max(self._pieces.get_vocab().values(), default=-1)
    self.eos_ids = self._ends()
    pad, bos = self._id("pad_token"), self._id("bos_token")
    self.pad_id = min(self.eos_ids) if pad is None else pad
    adds_bos = config.get("add_bos_token")
    if adds_bos is None:
      adds_bos = bos in self._pieces.encode("a").ids[:1]
    self.bos_id = bos if adds_bos else None

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without bos or eos; never the id of a control token.

    Raises:
      ValueError: it has a lone surrogate.
    """
    try:
      return self._pieces.encode(text, add_special_tokens=False).ids
    except TypeError as error:
      raise ValueError(f"{text!r:.60} has a lone surrogate, which is no"
                       " character; remove it") from error

  def encode_chat(self, text: str) -> list[int]:
    """Ids of a rendered chat, where control tokens become their ids.

    No bos is added. A character after `ESCAPE` is plain text.
    """
    return self.encode(self._marked(text))

  def decode(self, ids: Sequence[int]) -> str:
    """Text of `ids` (Python or NumPy integers), without control tokens.

    Ids outside the vocabulary are skipped.
    """
    known = [int(i) for i in ids if 0 <= i < self.vocab_size]
    return self._pieces.decode(known, skip_special_tokens=True)

  def __reduce__(self):
    return HfTokenizer, (self.files, self._name)

  @property
  def date(self) -> str:
    """See `Tokenizer`."""
    return self.files.get(DATE, b"").decode().strip()

  def on(self, date: str) -> HfTokenizer:
    """A copy whose chat template sees `date` (YYYY-MM-DD) as today.

    Its `files` have the date too.
    """
    return HfTokenizer(self.files | {DATE: f"{date}\n".encode()}, self._name)

  def ending(self, end: int) -> HfTokenizer:
    """A copy with `end` added to `eos_ids`; its `files` have it too."""
    fields = self._json(_GENERATION) | {
        "eos_token_id": sorted(self.eos_ids | {end})}
    return HfTokenizer(self.files | {_GENERATION: _written(fields)}, self._name)

  def _marked(self, text: str) -> str:
    """A rendered chat with its control tokens renamed and escapes removed."""
    there = [token for token in self.control_tokens if token in text]
    if not there and (ESCAPE not in text or not self.control_tokens):
      return text
    # Of several that begin at a character the longest wins, as in tokenizers.
    found = "|".join(map(re.escape, sorted(there, key=len, reverse=True)))
    return re.sub(
        f"{ESCAPE}(.)" + (f"|({found})" if there else ""),
        lambda m: self._inner(m[2]) if m[1] is None else m[1],
        text, flags=re.DOTALL)

  def _parse(self) -> tokenizers.Tokenizer:
    """tokenizer.json, with control tokens marked special and renamed."""
    fields = self._json(_JSON)
    named = {t for t in self.special_tokens.values() if not _is_text(t)}
    unlisted, control = set(named), set(named)
    try:
      for token in fields.get("added_tokens") or ():
        content = token["content"]
        token["special"] = not _is_text(content) and (
            token["special"] or content in named
            or _CONTROL.fullmatch(content) is not None)
        unlisted.discard(content)
        if token["special"]:
          control.add(content)
          token["content"] = self._inner(content)
      _rename(fields["model"], {t: self._inner(t) for t in control})
      pieces = tokenizers.Tokenizer.from_str(json.dumps(fields))
    except Exception as error:  # tokenizers raises bare Exception
      raise ValueError(
          f"tokenizer {self._name}/{_JSON} is malformed ({error}); fetch it"
          " again") from error
    lacking = [token for token in named
               if pieces.token_to_id(self._inner(token)) is None]
    if lacking:
      raise ValueError(
          f"tokenizer {self._name} names the special tokens {sorted(lacking)},"
          f" which are not in its {_JSON}; fetch both from the same model")
    pieces.add_special_tokens([self._inner(t) for t in sorted(unlisted)])
    pieces.no_truncation()
    pieces.no_padding()
    return pieces

  def _ends(self) -> frozenset[int]:
    ids = _listed(self._json(_GENERATION).get("eos_token_id"))
    if not all(i is None or type(i) is int and i >= 0 for i in ids):
      raise ValueError(
          f"tokenizer {self._name}/{_GENERATION} has eos_token_id="
          f"{ids!r:.80}; give one id >= 0 or a list of them")
    end_ids = {i for i in [*ids, self._id("eos_token")] if i is not None}
    if not end_ids:
      raise ValueError(
          f"tokenizer {self._name} has no end of sequence; set eos_token in"
          " tokenizer_config.json or eos_token_id in generation_config.json")
    return frozenset(end_ids)

  def _id(self, role: str) -> int | None:
    token = self.special_tokens.get(role)
    if token is None:
      return None
    control = token in self.control_tokens
    return self._pieces.token_to_id(self._inner(token) if control else token)

  def _inner(self, token: str) -> str:
    """The internal name of a control token, used in `_pieces`."""
    return self._mark + token + self._mark

  def _json(self, file: str) -> dict[str, Any]:
    """A JSON file's fields; {} if the file does not exist."""
    fields = io.parsed_json(self.files.get(file, b"{}"),
                            f"tokenizer {self._name}/{file}")
    if not isinstance(fields, dict):
      raise ValueError(f"tokenizer {self._name}/{file} is not a JSON object;"
                       " fetch it again")
    return fields

  def _template(self, config: Mapping[str, Any]) -> str | None:
    """The chat template, from its own file or from tokenizer_config.json.

    Of several in the config, the one named "default".
    """
    if "chat_template.jinja" in self.files:
      try:
        return self.files["chat_template.jinja"].decode()
      except UnicodeDecodeError as error:
        raise ValueError(f"tokenizer {self._name}/chat_template.jinja is not"
                         " UTF-8 text; fetch it again") from error
    template = config.get("chat_template")
    if isinstance(template, list):
      template = next((
          named.get("template") for named in template
          if isinstance(named, dict) and named.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _with_models_ends(files: Mapping[str, bytes], config: bytes, name: str
                      ) -> dict[str, bytes]:
  """The files, with config.json's eos_token_id added to generation_config.json.

  Some models have different ids in the two.
  """
  try:
    fields = io.parsed_json(config, _CONFIG)
    kept = io.parsed_json(files.get(_GENERATION, b"{}"), _GENERATION)
  except ValueError:
    return dict(files)  # HfTokenizer or the model's loader reports the error
  if not (isinstance(fields, dict) and isinstance(kept, dict)):
    return dict(files)
  text = fields.get("text_config")
  ids = [i for part in (fields, text) if isinstance(part, dict)
         for i in _listed(part.get("eos_token_id")) if type(i) is int]
  before = _listed(kept.get("eos_token_id"))
  new = [i for i in dict.fromkeys(ids) if i >= 0 and i not in before]
  if not new:
    return dict(files)
  return dict(files) | {_GENERATION: _written(kept | {
      "eos_token_id": [i for i in before if i is not None] + new})}


def _listed(ids: Any) -> list[Any]:
  return ids if isinstance(ids, list) else [ids]


def _written(fields: Mapping[str, Any]) -> bytes:
  return (json.dumps(fields, indent=2) + "\n").encode()


def _is_text(token: str) -> bool:
  """Whether a special token stays text: a tag, or a single character.

  Some models pad with an ordinary "!". Without its piece no text could have it.
  """
  return token in TAGS or len(token) < 2


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
  """Renames pieces of a vocabulary, in place.

  Merges that make such a piece, or go on from it, are removed, so text cannot
  form it.
  """
  vocab = model["vocab"]
  if isinstance(vocab, list):  # Unigram: [piece, score] pairs
    model["vocab"] = [[names.get(piece, piece), *score]
                      for piece, *score in vocab]
    return
  listed = names.keys() & vocab.keys()
  if not listed:
    return
  model["vocab"] = {names.get(piece, piece): i for piece, i in vocab.items()}
  if model.get("unk_token") in listed:
    model["unk_token"] = names[model["unk_token"]]
  if "merges" in model:
    model["merges"] = [
        pair for pair in model["merges"]
        if not listed & _made(pair)]


def _made(pair: str | list[str]) -> set[str]:
  """The two pieces of a merge, and the piece that it makes."""
  first, second = pair if isinstance(pair, list) else pair.split(" ", 1)
  return {first, second, first + second}


def _special(*sources: Mapping[str, Any]) -> dict[str, str]:
  """Role -> special token, from the first source that has the role."""
  tokens = {}
  for role in _ROLES:
    token = next((s[role] for s in sources if role in s), None)
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str) and token:
      tokens[role] = token
  return tokens
