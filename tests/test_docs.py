"""What the documents point at exists."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from r1jax.sharding.distributed import DistributedConfig
from tests.experiments import flagged

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def documents(root: pathlib.Path) -> list[pathlib.Path]:
  return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def prose(text: str) -> str:
  """The text without code, in which brackets are no links."""
  return re.sub(r"(?ms)^```.*?^```|`[^`\n]*`|^    \S.*?$", "", text)


def anchors(text: str) -> set[str]:
  """Names of a page's headings, as GitHub and MkDocs make them."""
  headings = re.findall(
      r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
  return {
      re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", h)).strip()
      .lower().replace(" ", "-") for h in headings}


def dead_links(root: pathlib.Path) -> list[str]:
  found = []
  for path in documents(root):
    for link in LINK.findall(prose(path.read_text())):
      if "://" in link or link.startswith("mailto:"):
        continue
      name, _, anchor = link.partition("#")
      target = (path.parent / name).resolve() if name else path
      if not target.exists():
        found.append(f"{path.relative_to(root)}: {link}")
      elif anchor and anchor not in anchors(target.read_text()):
        found.append(f"{path.relative_to(root)}: {link} is no heading")
  return found


def test_links_lead_somewhere():
  assert len(documents(ROOT)) > 3
  assert not dead_links(ROOT)


@pytest.mark.parametrize("text", [
    "[a](b.md)", "![a](docs/b.png)", "[a](#no-such)", "[a](a.md#no-such)"])
def test_dead_links_are_seen(tmp_path, text):
  (tmp_path / "a.md").write_text(f"# One, two\n\n[a](a.md#one-two) {text}\n")
  assert len(dead_links(tmp_path)) == 1


def run_on(text: str) -> list[str]:
  """Lists right below a paragraph, in which GitHub sees a list, MkDocs none."""
  lines = re.sub(r"(?ms)^```.*?^```", "", text).splitlines()
  return [line for above, line in itertools.pairwise(lines)
          if line.startswith("- ") and above
          and not above.startswith(("- ", "  "))]


def test_lists_stand_below_a_blank_line():
  found = {path.name: lines for path in (ROOT / "docs").rglob("*.md")
           if (lines := run_on(path.read_text()))}
  assert not found


def test_a_list_in_a_paragraph_is_seen():
  assert run_on("Done:\n- a\n- b") == ["- a"]
  assert not run_on("Done:\n\n- a\n  more\n- b\n\n```\nx\n- c\n```\n")


def pages() -> list[pathlib.Path]:
  """What describes today's code: the README and the pages, not the log."""
  return [ROOT / "README.md", *(
      path for path in documents(ROOT) if path.parent in (
          ROOT / "docs", ROOT / "docs/tutorials"))]


CODE = re.compile(r"`([^`\n]+)`")
TEST = re.compile(r"^(tests/[\w/]+\.py)(?:::(\w+))?$")
PATH = re.compile(r"^(?:r1jax|experiments|launch|tests|docs)/[\w/.-]*$")
MODULE = re.compile(r"^(?:python -m )?(experiments(?:\.\w+)+)\b")
# `NAME` in `r1jax/PATH.py`: the tables of papers.md.
NAMED = re.compile(r"((?:`\w+`(?:, )?)+) in `(r1jax/[\w/]+\.py)`")


def missing(text: str) -> list[str]:
  """Paths, tests, modules and names that a page has and the code has not."""
  found = []
  for code in CODE.findall(text):
    if test := TEST.match(code):
      path = ROOT / test[1]
      if not path.exists() or (
          test[2] and f"\ndef {test[2]}(" not in path.read_text()):
        found.append(code)
    elif PATH.match(code) and not (ROOT / code).exists():
      if not re.search(r"[A-Z]{4}", code):  # NAME stands for a name
        found.append(code)
    elif module := MODULE.match(code):
      path = ROOT / module[1].replace(".", "/")
      there = path.with_suffix(".py").exists() or path.is_dir()
      if not there and module[1] != "experiments.NAME":
        found.append(code)
  for names, where in NAMED.findall(text):
    if (path := ROOT / where).exists():
      source = path.read_text()
      found += [f"{name} in {where}" for name in re.findall(r"\w+", names)
                if not re.search(rf"(?m)^(?:def |class )?{name}\b", source)]
  return found


def test_what_the_pages_name_exists():
  found = {str(path.relative_to(ROOT)): wrong for path in pages()
           if (wrong := missing(path.read_text()))}
  assert not found


@pytest.mark.parametrize("text", [
    "`r1jax/none.py`", "`tests/none.py`", "`tests/test_docs.py::test_none`",
    "`experiments.none`", "`python -m experiments.none --x=1`",
    "`none` in `r1jax/losses/policy.py`"])
def test_what_is_missing_is_seen(text):
  assert len(missing(text)) == 1


def commands(text: str) -> list[tuple[str, list[str]]]:
  """(module, arguments) of every experiment in a page's shell blocks."""
  found = []
  for block in re.findall(r"(?ms)^```bash\n(.*?)^```", text):
    for line in block.replace("\\\n", " ").splitlines():
      if match := re.search(r"python -m (experiments[\w.]+)(.*)", line):
        found.append((match[1], shlex.split(match[2], comments=True)))
  for code in CODE.findall(prose_only(text)):
    match = re.match(r"python -m (experiments[\w.]+)( .*)?$", code)
    if match and match[1] != "experiments.NAME":  # stands for each of them
      found.append((match[1], shlex.split(match[2] or "")))
  return found


def prose_only(text: str) -> str:
  """The text without its fenced blocks."""
  return re.sub(r"(?ms)^```.*?^```", "", text)


@pytest.fixture(scope="module")
def answers():
  """{(module, arguments): error}, and the names of flags under None."""
  lines = {(module, tuple(arguments)) for path in pages()
           for module, arguments in commands(path.read_text())}
  modules = {module for module, _ in lines} | {
      "experiments.import_hf", "experiments.files"}
  asked = sorted(lines) + [(module, None) for module in sorted(modules)]
  return dict(zip(asked, flagged.errors(asked), strict=True))


def test_every_command_has_flags_that_its_experiment_takes(answers):
  assert len(answers) > 50
  assert not {line: error for line, error in answers.items()
              if error and line[1] is not None}


def clashes(found: list[tuple[str, list[str]]]) -> list[str]:
  """Folders that two commands write which are not the same command.

  A reader gives one after the other in one clone: the second would be refused.
  """
  writers: dict[str, set] = {}
  for module, arguments in found:
    folders = [x.partition("=")[2] for x in arguments
               if x.startswith(("--workdir=", "--out="))]
    if not folders and module in ("experiments.evaluate",
                                  "experiments.evaluate_safety"):
      folders = [f"the default of {module}"]
    for folder in folders:
      writers.setdefault(folder, set()).add((module, *arguments))
  return [folder for folder, lines in writers.items() if len(lines) > 1]


def test_no_two_commands_write_one_folder():
  blocks = "".join(
      block for path in pages()
      for block in re.findall(r"(?ms)^```bash\n.*?^```\n", path.read_text()))
  found = [line for line in commands(blocks)
           if line[0] != "experiments.r1"]  # goes on in its own folder
  assert len(found) > 50
  assert not clashes(found)


def test_clashes_are_seen():
  first = ("experiments.evaluate", ["--init=base"])
  assert not clashes([first, first])
  assert clashes([first, ("experiments.evaluate", ["--init=base:world"])])
  assert clashes([(x, ["--a=1", "--out=o"]) for x in ("one", "two")])


FLAG = re.compile(r"^--([\w.]+\w)(?:=.*)?$")
# Of other programs: mkdocs, pytest, the peers in the glossary.
FOREIGN = re.compile(r"glossary\.md$")


def test_every_flag_is_some_experiments(answers):
  used = {}
  for path in pages():
    columns = prose_only(path.read_text())
    if FOREIGN.search(path.name):  # ours are in the first column
      columns = "\n".join(
          line.split("|")[1] for line in columns.splitlines()
          if line.startswith("|"))
    for code in CODE.findall(columns):
      for word in code.split():
        if match := FLAG.match(word):
          used[match[1]] = path.name
  assert len(used) > 60
  known = {name for line, names in answers.items() if line[1] is None
           for name in names.split()}
  known |= {f"distributed.{field.name}"  # declared by experiments.start
            for field in dataclasses.fields(DistributedConfig)}
  for path in (ROOT / "mkdocs.yml", *(ROOT / "launch").iterdir()):
    known |= set(re.findall(r"--(\w+)", path.read_text()))
  assert not {name: page for name, page in used.items()
              if name not in known | {"help"}}


def test_pages_build_without_a_warning(tmp_path):
  if os.environ.get("CI") != "true" and not importlib.util.find_spec("mkdocs"):
    pytest.skip("needs mkdocs: pip install -e '.[docs]'")
  done = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet",
       f"--site-dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True,
      env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
  assert done.returncode == 0, done.stderr
  assert "policy_loss" in (tmp_path / "api/losses/index.html").read_text()


def test_the_script_of_architecture_lists_every_module():
  place = importlib.util.spec_from_file_location(
      "architecture", ROOT / "docs/architecture.py")
  script = importlib.util.module_from_spec(place)
  place.loader.exec_module(script)
  text = script.written((ROOT / "ARCHITECTURE.md").read_text(), ROOT)
  for path in (ROOT / "r1jax").rglob("*.py"):
    if path.stem != "__init__":
      assert f"| `{path.name}` | {script.holds(path)} |" in text
  assert script.written(text, ROOT) == text
