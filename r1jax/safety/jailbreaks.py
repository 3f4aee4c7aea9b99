"""Jailbreaks: templates around questions, drawn reproducibly.

  templates = read(["GPTFuzzer.csv"]) + world()
  asked = prompts + wrap(prompts, templates, seed=0)

DeepSeek-R1 (arXiv:2501.12948 v2, D.3.5) joins 2,232 templates, which are not
published, with its own questions at random, and compares the rates of unsafe
and rejected answers with and without them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows
from r1jax.data.sources.builders.rows import BadRow, Row
from r1jax.data.sources.generated.draws import Dice
from r1jax.data.sources.world import wrongs
from r1jax.safety.verdicts import set_of

MARKERS = ("[INSERT PROMPT HERE]", "{question}")
WORLD = "world"
_TEXTS = ("text", "template", "prompt", "jailbreak")  # names of the column
_FOLDER = "GPTFuzzer.csv"


class Template(NamedTuple):
  """A jailbreak template.

  Attributes:
    name: unique among the templates in use.
    text: with one of MARKERS wherever the question goes.
    language: the language of questions that it suits; "" suits all.
  """

  name: str
  text: str
  language: str = ""

  def around(self, question: str) -> str:
    """The template with the question in it."""
    marker = next(m for m in MARKERS if m in self.text)
    return question.join(self.text.split(marker))


def read(paths: Sequence[str | os.PathLike]) -> list[Template]:
  """Reads templates.

  Args:
    paths: tables (.csv, .tsv) and .jsonl with a column text, template, prompt
      or jailbreak, and optionally name (or id) and language; .txt files with
      one template each; a folder with GPTFuzz's file or with files of these
      kinds; or "world".

  Raises:
    ValueError: a file cannot be read, or more than 1 % of its rows have no
      template; a smaller share of such rows is left out.
  """
  return [template for path in paths for template in (
      world() if path == WORLD else _file(epath.Path(path)))]


def world() -> list[Template]:
  """The small world's templates, in each of its languages."""
  return [Template(f"world-{name}", f"{before}{{question}}{after}", language)
          for name, by_language in wrongs.WRAPPERS.items() if name
          for language, (before, after) in by_language.items()]


def wrap(prompts: Sequence[Prompt], templates: Sequence[Template], *, seed: int,
         count: int = 1) -> list[Prompt]:
  """Puts questions into templates drawn by seed and question alone.

  Args:
    prompts: the questions; the last message of each goes into the template.
    templates: to draw from.
    seed: of the draw.
    count: number of different templates for each question.

  Returns:
    `count` prompts for each question, with ids id * count + n. Their metadata
    have `wrapper`, the template's name, `inner`, the original question, and
    `set` with "-jailbreak" appended.

  Raises:
    ValueError: there are fewer than `count` templates for a language.
  """
  check(count > 0, f"count={count} must be positive")
  suited = {language: [t for t in templates if t.language in ("", language)]
            for language in {prompt.language for prompt in prompts}}
  for language, some in suited.items():
    check(len(some) >= count, f"{len(some)} templates suit questions in"
          f" {language!r}, fewer than the {count} per question asked for: give"
          " more, or some without a language")
  return [
      _wrapped(prompt, template, prompt.id * count + number)
      for prompt in prompts for number, template in enumerate(
          Dice("jailbreak", seed, prompt.source, prompt.question).sample(
              suited[prompt.language], count))]


def inner(prompt: Prompt) -> str:
  """The question without its jailbreak."""
  return prompt.metadata.get("inner", prompt.question)


def is_wrapped(prompt: Prompt) -> bool:
  """Whether the question is inside a jailbreak."""
  return bool(prompt.metadata.get("wrapper"))


def _wrapped(prompt: Prompt, template: Template, number: int) -> Prompt:
  reference = prompt.reference
  if isinstance(reference, Mapping) and "jailbreak" in reference:
    reference = {**reference, "jailbreak": True}
  return dataclasses.replace(
      prompt, id=number, reference=reference,
      messages=(*prompt.messages[:-1],
                *ask(template.around(prompt.question))),
      metadata={**prompt.metadata, "set": f"{set_of(prompt)}-jailbreak",
                "wrapper": template.name, "inner": prompt.question})


def _file(path: epath.Path) -> Iterator[Template]:
  if path.is_dir():
    own = path / _FOLDER
    files = [own] if own.exists() else sorted(
        file for file in path.iterdir()
        if file.suffix in (".csv", ".tsv", ".jsonl", ".txt"))
    check(bool(files), f"{path} has no {_FOLDER}, .csv, .tsv, .jsonl or .txt")
    for file in files:
      yield from _file(file)
    return
  kind = path.suffix
  if kind == ".txt":
    try:
      text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
      raise ValueError(f"template {path} cannot be read ({error})") from error
    yield _template(path, path.stem, text)
    return
  check(kind in (".csv", ".tsv", ".jsonl"), f"templates {path}: give a .csv,"
        f" .tsv, .jsonl or .txt file, a folder of them, or {WORLD}")

  def parse(row: Row) -> Template:
    column = next((name for name in _TEXTS if name in row.fields), _TEXTS[0])
    name = row.fields.get("name") or row.fields.get("id") or row.number
    return _template(path, f"{path.stem}-{name}", rows.text(row.fields, column),
                     str(row.fields.get("language") or ""))

  items = (rows.jsonl([path], parse) if kind == ".jsonl" else rows.table(
      [path], parse, delimiters="\t" if kind == ".tsv" else ","))
  yield from (item for item in items if not isinstance(item, BadRow))


def _template(path: epath.Path, name: str, text: str, language: str = ""
              ) -> Template:
  if not any(marker in text for marker in MARKERS):
    others = ", ".join(
        sorted(set(re.findall(r"\[[A-Z ]+\]|\{\w+\}", text)))[:3])
    raise ValueError(
        f"{path}: template {name} has neither of {' and '.join(MARKERS)}"
        + (f", but {others}" if others else "")
        + "; write one where the question goes")
  return Template(name, text, language)
