"""Writes the tables of ARCHITECTURE.md: a package, its files, what they hold.

  python docs/architecture.py

What a file holds is the first sentence of its docstring; what a package may
import is in tests/test_architecture.py. To be run when a file comes or goes.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- files: begin -->\n", "<!-- files: end -->\n"


def rows(root: pathlib.Path) -> list[set[str]]:
  """The layers, as the test that holds them has them."""
  tree = ast.parse((root / "tests/test_architecture.py").read_text())
  (found,) = (node.value for node in tree.body
              if isinstance(node, ast.Assign)
              and ast.unparse(node.targets[0]) == "ROWS")
  return ast.literal_eval(found)


def holds(path: pathlib.Path) -> str:
  """The first paragraph of a module's docstring, in one line."""
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
  """A section for every package, with its folders."""
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
  yield ("May import all of r1jax, and alone has absl flags; a line is a"
         " command, or what commands share.\n")
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
  """The document with tables of today."""
  head, rest = text.split(BEGIN)
  return head + BEGIN + "\n" + "\n".join(sections(root)) + "\n" + END + (
      rest.split(END)[1])


if __name__ == "__main__":
  PATH.write_text(written(PATH.read_text(), ROOT))
