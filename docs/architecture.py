"""Writes the tables of ARCHITECTURE.md: the files of each package.

  python docs/architecture.py

A file is described by the first paragraph of its docstring; what a package may
import is read from tests/test_architecture.py. Run it when a file is added,
removed or described anew.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->\n"


def rows(root: pathlib.Path) -> list[set[str]]:
  """The layers of packages, `ROWS` of tests/test_architecture.py."""
  tree = ast.parse((root / "tests/test_architecture.py").read_text())
  (found,) = (node.value for node in tree.body
              if isinstance(node, ast.Assign)
              and ast.unparse(node.targets[0]) == "ROWS")
  return ast.literal_eval(found)


def holds(path: pathlib.Path) -> str:
  """The first paragraph of a module's docstring, as one line."""
  text = ast.get_docstring(ast.parse(path.read_text())) or ""
  return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def table(folder: pathlib.Path) -> Iterator[str]:
  """The files of one folder."""
  yield "| file | holds |"
  yield "|---|---|"
  for path in sorted(folder.glob("*.py")):
    if path.stem != "__init__":
      yield f"| `{path.name}` | {holds(path)} |"
  yield ""


def sections(root: pathlib.Path) -> Iterator[str]:
  """A section for every package, with tables of its folders."""
  below: list[str] = []
  for row in rows(root):
    for name in sorted(row):
      yield f"### r1jax/{name}\n"
      if says := holds(root / "r1jax" / name / "__init__.py"):
        yield f"{says}\n"
      yield ("May import " + ", ".join(f"`{x}`" for x in below) + "."
             if below else "May import nothing of r1jax.") + "\n"
      yield from folders(root / "r1jax" / name, root)
    below += sorted(row)
  yield "### experiments\n"
  yield ("May import all of r1jax; only this package defines absl flags. A file"
         " is a command, or code that commands share.\n")
  yield from folders(root / "experiments", root)


def folders(top: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
  """The tables of a package and of the packages in it."""
  for folder in [top, *sorted(p for p in top.rglob("*") if p.is_dir())]:
    files = [p for p in folder.glob("*.py") if p.stem != "__init__"]
    if files and folder != top:
      says = holds(folder / "__init__.py")
      yield f"`{folder.relative_to(root)}`" + (f": {says}" if says else "") + (
          "\n")
    if files:
      yield from table(folder)


def written(text: str, root: pathlib.Path) -> str:
  """The document with its tables replaced by current ones."""
  head, rest = text.split(BEGIN)
  return head + BEGIN + "\n" + "\n".join(sections(root)) + "\n" + END + (
      rest.split(END)[1])


if __name__ == "__main__":
  PATH.write_text(written(PATH.read_text(), ROOT))
