"""Prompt templates: a question in, the text that the model continues.

A template gives a form, never a hint about content. In the plain ones the
completion follows the last character, so it begins with a space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from r1jax.data import chat
from r1jax.data.tokenizer import Tokenizer

R1_ZERO = (
    "The User asks, the Assistant thinks it over, then answers, as in"
    " <think> thoughts </think> <answer> answer </answer>"
    " User: {question} Assistant:")

PLAIN = "Question: {question} Answer:"

TEMPLATES = {"r1-zero": R1_ZERO, "plain": PLAIN}
# Templates that tokenizers bring: arguments of `chat.render`.
CHATS = {"chat": {}, "chat-think": {"think": True}, "r1": {"template": chat.R1}}


class Rendered(NamedTuple):
  """A prompt.

  Attributes:
    ids: what the model continues.
    tail: the beginning of the answer that the prompt ends with, or "".
  """

  ids: list[int]
  tail: str


def prompt(messages: Sequence[Mapping[str, str]], template: str,
           tokenizer: Tokenizer) -> Rendered:
  """A conversation that ends with a question in the named template, as ids.

  "chat" is the tokenizer's own chat template, "chat-think" the same with a
  thought opened after it, "r1" that of DeepSeek-R1. These place bos
  themselves; before the others it is put if the tokenizer has one. These have
  room for one question: earlier messages stand before it as paragraphs.

  Raises:
    ValueError: no template has that name, or as `chat.render`.
  """
  if template in CHATS:
    text = chat.render(tokenizer, list(messages), **CHATS[template])
    return Rendered(tokenizer.encode_chat(text), chat.tail(text))
  first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  question = "\n\n".join(message["content"] for message in messages)
  return Rendered(first + tokenizer.encode(render(question, template)), "")


def render(question: str, template: str = "r1-zero") -> str:
  """`question` set into the named template of plain text.

  "r1-zero" is the form of DeepSeek-R1 (arXiv:2501.12948, Table 1) in our own,
  shorter words: a preamble, a one-line schema, the two speakers.

  Raises:
    ValueError: no template has that name; the message lists them.
  """
  if template not in TEMPLATES:
    raise ValueError(
        f"template={template!r} is unknown; choose from"
        f" {', '.join(sorted([*TEMPLATES, *CHATS]))}")
  return TEMPLATES[template].format(question=question)
