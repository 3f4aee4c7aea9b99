"""How questions are put: the flags and the text of a template."""

from __future__ import annotations

from absl import flags
from etils import epath

from r1jax.core import io
from r1jax.data.text import templates
from r1jax.report import workdir as workdir_lib

from . import common

TEMPLATE = ("Prompt template: r1-zero, plain, chat (the tokenizer's own),"
            " chat-think (the same with a thought opened), r1, these with"
            " variables of the chat template (chat:enable_thinking=False) or"
            " with instruct=False (nothing then says how to give the final"
            " answer), or file:PATH, a text of your own with {question};"
            " default: that of the run in --init=orbax:WORKDIR, else r1-zero.")
SYSTEM = flags.DEFINE_string(
    "system", "", "Text of the system message that a chat template begins with,"
    " or file:PATH; a run keeps it in its template.")


def template(given: str = "", init: str = "") -> str:
  """--template as everything else takes it: a file's text in place of its path.

  Args:
    given: what was typed; by default that of the run in `init` if that is
      orbax:WORKDIR, whose config has the text that it was trained with, else
      r1-zero.
    init: of the model; by default --init.

  Raises:
    ValueError: as `templates.read` and `templates.with_system`.
  """
  init = init or common.INIT.value
  kind, _, workdir = init.partition(":")
  path = epath.Path(workdir_lib.named(workdir)[0]) / "config.json"
  own = ""
  if kind == "orbax" and path.exists():
    own = io.read_json(path)["config"].get("template", "")
  text = templates.read(given or own or "r1-zero")
  if SYSTEM.value:
    text = templates.with_system(text, SYSTEM.value)
  if given and own and text != own:
    print(f"{init} was trained with the template {own[:40]!r}; this command"
          f" asks by {text[:40]!r} (--template)", flush=True)
  if given and text != given:
    print(f"{given}: a template of {len(text)} characters that ends in"
          f" {text[-20:]!r}", flush=True)
  return text
