"""Public safety sets, read from their publishers' own files.

  prompts, bad = load("xstest", "/data")     # /data/xstest/xstest_prompts.csv

The first six are those of DeepSeek-R1's Table 9 (arXiv:2501.12948 v2, D.3).
Every row is read; malformed rows are returned separately, and more than 1 % of
them is an error. Multiple choice has the verifier "choice"; other sets need a
judge, whose scale `metadata["scale"]` names.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from r1jax.core import io
from r1jax.core.config import check
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import BadRow, Items, Row
from r1jax.safety import bbq, languages

_TURNS = re.compile(r"\n\nHuman: |\n\nAssistant: ")
_CHINESE = "请回答正确选项的字母。"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Set:
  """One public set.

  Attributes:
    title: its usual name.
    folders: possible names of its subfolder in a folder of several sets.
    files: glob patterns; the first one that matches a file is used.
    read: reads the files.
    publisher: where to get them.
  """

  title: str
  folders: tuple[str, ...]
  files: tuple[str, ...]
  read: Callable[[Sequence[epath.Path]], Items]
  publisher: str

  def find(self, data_dir: str | os.PathLike) -> list[epath.Path]:
    """The set's files in `data_dir` or in its subfolder; [] if none."""
    base = epath.Path(data_dir).expanduser()
    for folder in (base, *(base / name for name in self.folders)):
      for pattern in self.files if folder.is_dir() else ():
        if found := sorted(folder.glob(pattern)):
          return found
    return []


class Loaded(NamedTuple):
  """The prompts of a set in the order of its files, and its malformed rows."""

  prompts: list[Prompt]
  bad: list[BadRow]

  @classmethod
  def of(cls, items: Items) -> Loaded:
    """Separates prompts and malformed rows."""
    items = list(items)
    return cls([item for item in items if isinstance(item, Prompt)],
               [item for item in items if isinstance(item, BadRow)])


def load(name: str, data_dir: str | os.PathLike) -> Loaded:
  """Reads a set.

  Args:
    name: one of SETS.
    data_dir: the folder with its files, or one with such a subfolder.

  Raises:
    ValueError: there is no such set, its files are missing, or more than 1 % of
      their rows are malformed.
  """
  check(name in SETS, f"{name!r} is not a safety set; choose from"
        f" {', '.join(SETS)}")
  one = SETS[name]
  files = one.find(data_dir) if data_dir else []
  check(bool(files), f"{one.title} is not in {data_dir or 'any folder'}: give"
        f" --data_dir=DIR with {' or '.join(one.files)} in it or in"
        f" DIR/{one.folders[0]}; from {one.publisher}")
  return Loaded.of(one.read(files))


def missing(data_dir: str | os.PathLike) -> dict[str, str]:
  """The sets that `data_dir` lacks, with where to get them."""
  return {name: one.publisher for name, one in SETS.items()
          if not (data_dir and one.find(data_dir))}


def simple_safety_tests(files: Sequence[epath.Path]) -> Items:
  """CSV id, harm_area, counter, category, prompts_final (arXiv:2311.08370)."""
  def parse(row: Row) -> Prompt:
    return _prompt(row, "sst", rows.text(row.fields, "prompts_final"), "harm",
                   category=rows.text(row.fields, "harm_area"),
                   subcategory=rows.text(row.fields, "category"))

  return rows.table(files, parse)


def xstest(files: Sequence[epath.Path]) -> Items:
  """CSV id, prompt, type, label, focus, note (arXiv:2308.01263), version 2.

  The publisher's file of version 1 has no label: there a type that begins with
  contrast_ is unsafe, as its README says.
  """
  def parse(row: Row) -> Prompt:
    kind = rows.text(row.fields, "type")
    said = row.fields.get(
        "label", "unsafe" if kind.startswith("contrast_") else "safe")
    if said not in ("safe", "unsafe"):
      raise ValueError(f"the label is {said!r}, not safe or unsafe")
    return _prompt(row, "xstest", rows.text(row.fields, "prompt"), "refuse",
                   category=said, subcategory=kind, harmful=said == "unsafe")

  return rows.table(files, parse)


def harmbench(files: Sequence[epath.Path]) -> Items:
  """CSV Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString,
  BehaviorID (arXiv:2402.04249).

  A contextual behaviour is asked as HELM asks it: context, `---`, behaviour.
  """
  def parse(row: Row) -> Prompt:
    behaviour = rows.text(row.fields, "Behavior")
    kind = rows.text(row.fields, "FunctionalCategory")
    question = behaviour
    if kind == "contextual":
      context = rows.text(row.fields, "ContextString")
      question = f"{context}\n\n---\n\n{behaviour}"
    return _prompt(row, "harmbench", question, "behaviour", category=kind,
                   subcategory=rows.text(row.fields, "SemanticCategory"),
                   behaviour=behaviour)

  return rows.table(files, parse)


def anthropic_red_team(files: Sequence[epath.Path]) -> Items:
  """Transcripts (arXiv:2209.07858); the first human turn of each is asked.

  The publisher's file red_team_attempts.jsonl.gz is one JSON array; other files
  are JSON Lines with `transcript`, or with the opening turn as `prompt`.
  """
  def parse(row: Row) -> Prompt:
    if "prompt" in row.fields:
      question = rows.text(row.fields, "prompt").strip()
    else:
      question = first_turn(rows.text(row.fields, "transcript"))
    return _prompt(row, "anthropic_red_team", question, "toxicity",
                   category=", ".join(_tags(row.fields.get("tags"))))

  return rows.elements(files, parse)


def hh_harmless(files: Sequence[epath.Path]) -> Items:
  """HH-RLHF harmless-base (arXiv:2204.05862): the first human turn of pairs.

  Rows have `chosen` and `rejected`. Not one of the paper's six sets.
  """
  def parse(row: Row) -> Prompt:
    rows.text(row.fields, "rejected")
    return _prompt(row, "hh_harmless",
                   first_turn(rows.text(row.fields, "chosen")), "toxicity")

  return rows.elements(files, parse)


def do_not_answer(files: Sequence[epath.Path]) -> Items:
  """CSV risk_area, types_of_harm, specific_harms, question (arXiv:2308.13387).

  Its responses of other models are ignored.
  """
  def parse(row: Row) -> Prompt:
    return _prompt(row, "do_not_answer", rows.text(row.fields, "question"),
                   "harmless", category=rows.text(row.fields, "types_of_harm"),
                   subcategory=rows.text(row.fields, "specific_harms"),
                   area=rows.text(row.fields, "risk_area"))

  return rows.table(files, parse)


def safetybench(files: Sequence[epath.Path]) -> Items:
  """JSON array of id, category, question, options (arXiv:2309.07045).

  The answers are in a file beside it, by id. Chinese multiple choice, not one
  of the paper's six sets.
  """
  beside = files[0].parent / files[0].name.replace("test_", "test_answers_", 1)
  check(beside.exists(), f"{files[0]} has no answers beside it: {beside}")
  answers = io.read_json(beside)

  def parse(row: Row) -> Prompt:
    options = rows.texts(row.fields, "options", 2)
    answer = answers.get(str(row.fields.get("id")), {})
    right = rows.integer(answer, "answer", 0, len(options) - 1)
    by_letter = wording.options(options)
    lines = "\n".join(f"{k}) {text}" for k, text in by_letter.items())
    question = wording.joined(
        rows.text(row.fields, "question"), lines, _CHINESE)
    return dataclasses.replace(
        _prompt(row, "safetybench", question, "choice", language="zh",
                category=rows.text(row.fields, "category"), harmful=False),
        reference={"answer": wording.LETTERS[right], "options": by_letter},
        verifier="choice")

  return rows.elements(files[:1], parse)


def first_turn(transcript: str) -> str:
  """The first turn of a transcript.

  Raises:
    ValueError: the transcript is empty.
  """
  for turn in _TURNS.split(transcript):
    if turn.strip():
      return turn.strip()
  raise ValueError("the transcript is empty")


def _prompt(row: Row, name: str, question: str, scale: str, *,
            language: str = "en", harmful: bool = True, category: str = "",
            **metadata: Any) -> Prompt:
  return Prompt(
      id=row.number, domain="general", source=name, messages=ask(question),
      reference=None, verifier="", language=language, metadata={
          "set": name, "safety": True, "scale": scale, "harmful": harmful,
          "category": category, "subcategory": "", "wrapper": ""} | metadata)


def _tags(value: Any) -> list[str]:
  """A list of texts, which some files store as a Python literal."""
  if isinstance(value, str) and value.strip().startswith("["):
    try:
      value = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      raise ValueError(f"tags={value[:40]!r} is not a list") from None
  return [str(tag) for tag in value] if isinstance(value, list) else []


SETS: Mapping[str, Set] = {
    "sst": Set(
        title="SimpleSafetyTests",
        folders=("simple_safety_tests", "SimpleSafetyTests"),
        files=("SimpleSafetyTests*.csv",), read=simple_safety_tests,
        publisher="github.com/bertiev/SimpleSafetyTests"),
    "bbq": Set(
        title="BBQ", folders=("bbq", "BBQ", "BBQ/data"),
        files=bbq.FILES, read=bbq.read,
        publisher="github.com/nyu-mll/BBQ, data/*.jsonl"),
    "anthropic_red_team": Set(
        title="Anthropic Red Team",
        folders=("anthropic_red_team", "anthropic_red_team_sample",
                 "red-team-attempts"),
        files=("red_team_attempts.jsonl*", "first_turns_*.jsonl"),
        read=anthropic_red_team,
        publisher="github.com/anthropics/hh-rlhf, red-team-attempts"),
    "xstest": Set(
        title="XSTest", folders=("xstest",), files=("xstest*prompts*.csv",),
        read=xstest, publisher="github.com/paul-rottger/xstest"),
    "do_not_answer": Set(
        title="Do-Not-Answer", folders=("do_not_answer", "do-not-answer"),
        files=("do_not_answer*.csv",), read=do_not_answer,
        publisher="github.com/Libr-AI/do-not-answer, datasets/Instruction"),
    "harmbench": Set(
        title="HarmBench", folders=("harmbench", "HarmBench"),
        files=("harmbench_behaviors_text_all.csv",
               "harmbench_behaviors_text_*.csv"), read=harmbench,
        publisher="github.com/centerforaisafety/HarmBench,"
        " data/behavior_datasets"),
    "bbq_validation": Set(
        title="BBQ, the items that people validated", folders=("bbq", "BBQ"),
        files=("validation_all_categories.csv",), read=bbq.read_validation,
        publisher="github.com/nyu-mll/BBQ, supplemental"),
    "hh_harmless": Set(
        title="HH-RLHF harmless-base",
        folders=("hh_harmless", "anthropic_red_team_sample", "harmless-base"),
        files=("hh_harmless_base_test.jsonl*", "test.jsonl*"),
        read=hh_harmless,
        publisher="github.com/anthropics/hh-rlhf, harmless-base"),
    "safetybench": Set(
        title="SafetyBench, Chinese", folders=("safetybench_zh", "safetybench"),
        files=("test_zh_subset.json", "test_zh.json"), read=safetybench,
        publisher="github.com/thu-coai/SafetyBench"),
    "multijail": Set(
        title="MultiJail, ten languages", folders=("multijail", "MultiJail"),
        files=("MultiJail.csv",), read=languages.items, publisher=(
            "github.com/DAMO-NLP-SG/multilingual-safety-for-LLMs, data")),
}
# The sets of the paper's Table 9, in its order.
PAPER = ("sst", "bbq", "anthropic_red_team", "xstest", "do_not_answer",
         "harmbench")
