"""Readers of questions about facts and texts: DROP, SimpleQA, FRAMES."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.builders import rows, wording
from r1jax.data.sources.builders.rows import Items, Row

ARTICLES = "articles*.jsonl"  # FRAMES' articles, in the folder of its table


def drop(files: Sequence[epath.Path], split: str) -> Items:
  """Object of {passage, qa_pairs: [{question, answer, validated_answers}]}.

  Dua et al., arXiv:1903.00161. An answer is a number, spans or a date, as in
  the publisher's evaluator; the answers of all annotators are right.
  """
  del split

  def parse(row: Row) -> Prompt:
    fields = row.fields
    given = [fields.get("answer"), *(fields.get("validated_answers") or ())]
    found: list[list[str]] = []
    for answer in filter(None, map(_spans, given)):
      if answer not in found:
        found.append(answer)
    if not found:
      raise ValueError("no answer: neither number, spans nor date")
    return _prompt(
        row, "drop", wording.joined(
            rows.text(fields, "passage"), rows.text(fields, "question"),
            wording.SPANS),
        {"answers": found}, "drop",
        {"query_id": str(fields.get("query_id", ""))})

  return rows.elements(files, parse, key=rows.VALUES, expand=_pairs)


def simpleqa(files: Sequence[epath.Path], split: str) -> Items:
  """Table {metadata, problem, answer} (arXiv:2411.04368)."""
  del split

  def parse(row: Row) -> Prompt:
    try:
      about = ast.literal_eval(row.fields.get("metadata") or "{}")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      about = {}
    topic = about.get("topic") if isinstance(about, dict) else None
    return _prompt(
        row, "simpleqa", rows.text(row.fields, "problem"),
        rows.text(row.fields, "answer").strip(), "",
        {"topic": topic} if isinstance(topic, str) else {})

  return rows.table(files, parse)


def chinese_simpleqa(files: Sequence[epath.Path], split: str) -> Items:
  """Rows {question, answer, primary_category} (arXiv:2411.07140)."""
  del split

  def parse(row: Row) -> Prompt:
    topic = row.fields.get("primary_category")
    return _prompt(
        row, "chinese_simpleqa", rows.text(row.fields, "question"),
        rows.text(row.fields, "answer").strip(), "",
        {"topic": topic} if isinstance(topic, str) else {}, "zh")

  return rows.jsonl(files, parse)


def frames(files: Sequence[epath.Path], split: str) -> Items:
  """Table {Prompt, Answer, reasoning_types, wiki_links} (arXiv:2409.12941).

  The question includes the articles (oracle context, as in R1's evaluation).
  The publisher gives only links, so the texts must be rows {link, text} of a
  file `articles*.jsonl` in the same folder. Without such a file the question is
  asked without articles, and metadata "articles" is 0.
  """
  del split
  articles: dict[str, str] = {}
  for path in sorted(files[0].parent.glob(ARTICLES)):
    for line in path.read_text().split("\n"):
      if line.strip():
        article = json.loads(line)
        articles[_link(article["link"])] = article["text"]

  def parse(row: Row) -> Prompt:
    links = _links(row.fields.get("wiki_links", ""))
    missing = [link for link in links if link not in articles]
    if articles and missing:
      raise ValueError(f"no article {missing[0]} in {ARTICLES}")
    texts = [articles[link] for link in links] if articles else []
    kinds = row.fields.get("reasoning_types") or ""
    return _prompt(
        row, "frames", wording.joined(
            *([wording.CONTEXT] if texts else []), *texts,
            rows.text(row.fields, "Prompt")),
        rows.text(row.fields, "Answer").strip(), "",
        {"articles": len(texts), "reasoning_types": kinds})

  return rows.table(files, parse, delimiters="\t,",
                    quoting=csv.QUOTE_MINIMAL)


def _pairs(passage: Any) -> list[Any]:
  """The passage with each of its questions."""
  pairs = passage.get("qa_pairs") if isinstance(passage, dict) else None
  if not isinstance(pairs, list) or not all(
      isinstance(pair, dict) for pair in pairs):
    return [passage]
  return [{"passage": passage.get("passage"), **pair} for pair in pairs]


def _spans(answer: Any) -> list[str]:
  """The spans of one of DROP's answers; [] if it has none."""
  if not isinstance(answer, Mapping):
    return []
  number, spans = answer.get("number"), answer.get("spans")
  if isinstance(number, str | int | float) and str(number).strip():
    return [str(number).strip()]
  if isinstance(spans, list) and spans and all(
      isinstance(span, str) for span in spans):
    return [span for span in spans if span.strip()]
  date = answer.get("date")
  if isinstance(date, Mapping):
    parts = [str(date.get(part) or "") for part in ("day", "month", "year")]
    return [" ".join(filter(None, parts))] if any(parts) else []
  return []


def _links(text: str) -> list[str]:
  try:
    links = ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    links = None
  if not isinstance(links, list) or not all(
      isinstance(link, str) for link in links):
    raise ValueError("'wiki_links' is no list of links")
  return list(dict.fromkeys(map(_link, links)))


def _link(link: str) -> str:
  return link.strip().partition("#")[0].rstrip("/")


def _prompt(
    row: Row, source: str, question: str, reference: Any, verifier: str,
    metadata: Mapping[str, Any], language: str = "en") -> Prompt:
  return Prompt(
      id=row.number, domain="general", source=source, messages=ask(question),
      reference=reference, verifier=verifier, language=language,
      metadata=metadata)
