"""What the documents point at exists."""

from __future__ import annotations

import pathlib
import re

import pytest

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
