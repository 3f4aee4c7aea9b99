"""MkDocs hooks: pages that are generated, and where names may break."""

from __future__ import annotations

import ast
import pathlib
import re

from mkdocs.structure.files import File


def on_files(files, config):
  """Adds log/index.md, from LOG.md, and an API page for each package."""
  root = pathlib.Path(config.config_file_path).parent
  log = (root / "LOG.md").read_text().replace("](docs/log/", "](")
  files.append(File.generated(config, "log/index.md", content=log))
  for package in sorted((root / "r1jax").iterdir()):
    if package.is_dir() and any(package.glob("*.py")):
      files.append(File.generated(
          config, f"api/{package.name}.md", content=api(package, root)))
  return files


def on_page_content(html, **_):
  """Marks where lines may break, beside pages.css.

  Browsers break a name after its two hyphens, and nowhere else: so these stay
  with it, and in tables it may break after . _ and =. An indented block that
  begins with a command is one of commands, which wrap.
  """
  def names(cell):
    return re.sub(r"(?<=<code>)[^<]+", lambda code: re.sub(
        r"(?<=\w)[._=](?=\w)", r"\g<0><wbr>", code[0]), cell[0])

  html = re.sub(r"(?s)<td.*?</td>", names, html)
  html = re.sub(
      r'language-text(?= highlight"><pre>(<[^>]*>)*(\w+=\S+ )?'
      r'(python|bash|from|pip) )', "language-bash", html)
  flag = r"(?<![\w-])--\w+(?=[^<>]*<)"  # in text, not in a tag
  return re.sub(flag, r'<span class="flag">\g<0></span>', html)


def api(package: pathlib.Path, root: pathlib.Path) -> str:
  """An mkdocstrings page of all modules of a package with a docstring."""
  lines = [f"# r1jax.{package.name}\n"]
  for path in sorted(package.rglob("*.py")):
    if path.stem.startswith("__") or not ast.get_docstring(
        ast.parse(path.read_text())):
      continue
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    lines.append(f"::: {name}\n")
  return "\n".join(lines)
