"""Flags of the prompt template and the system message."""

from __future__ import annotations

from absl import flags
from etils import epath

from r1jax.data.text import templates
from r1jax.report import workdir as workdir_lib

from . import common

TEMPLATE = ("Prompt template: r1-zero, plain, chat (the tokenizer's own),"
            " chat-think (the same with an opened thought), r1. Chat templates"
            " can have variables (chat:enable_thinking=False) and"
            " instruct=False (no instruction on the final answer's form)."
            " Or file:PATH, a text of your own with {question}. Default: the"
            " template of the run in --init=orbax:WORKDIR, else r1-zero.")
SYSTEM = flags.DEFINE_string(
    "system", "", "Text of the system message of a chat template, or file:PATH;"
    " a run stores it in its template.")


def template(given: str = "", init: str = "") -> str:
  """The resolved template: file:PATH is replaced by the file's text.

  Args:
    given: the value of --template; "" for the template that the run in `init`
      was trained with, if it is orbax:WORKDIR, else r1-zero.
    init: the model; by default --init.

  Raises:
    ValueError: as `templates.read` and `templates.with_system`.
  """
  init = init or common.INIT.value
  kind, _, workdir = init.partition(":")
  path = epath.Path(workdir_lib.named(workdir)[0]) / "config.json"
  own = ""
  if kind == "orbax" and path.exists():
    own = workdir_lib.stored_in(path.parent)["config"].get("template", "")
  text = templates.read(given or own or "r1-zero")
  if SYSTEM.value:
    text = templates.with_system(text, SYSTEM.value)
  if given and own and text != own:
    print(f"{init} was trained with the template {own[:40]!r}; this command"
          f" uses {text[:40]!r} (--template)", flush=True)
  if given and text != given:
    print(f"{given}: a template of {len(text)} characters that ends in"
          f" {text[-20:]!r}", flush=True)
  return text
