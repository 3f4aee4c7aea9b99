import json

from r1jax.data.sources.builders import readers_facts as readers
from tests.data.sources.builders import cases

EMPTY = {"number": "", "spans": [], "date": {"day": "", "month": "",
                                             "year": ""}}


def passage(*pairs):
  return {"passage": "Ten men ran.", "qa_pairs": list(pairs), "wiki_url": ""}


def test_drop(tmp_path):
  path = tmp_path / "drop_dataset_dev.json"
  good = {"question": "How many?", "query_id": "q1", "answer": {
      **EMPTY, "number": "10"}, "validated_answers": [
          {**EMPTY, "spans": ["Ten", "men"]}, {**EMPTY, "number": "10"}, EMPTY]}
  dated = {"question": "When?", "query_id": "q2", "answer": {
      **EMPTY, "date": {"day": "17", "month": "August", "year": ""}}}
  none = {"question": "Why?", "query_id": "q3", "answer": EMPTY}
  path.write_text(json.dumps({
      "a": passage(good, dated), "b": passage(none), "c": {"passage": "x"},
      "d": passage(cases.without(good, "question"))}))
  prompts, bad = cases.read(readers.drop, cases.lines(
      path, path.read_text()))
  assert [p.reference["answers"] for p in prompts] == [
      [["10"], ["Ten", "men"]], [["17 August"]]]
  assert [p.id for p in prompts] == [0, 1]
  assert prompts[0].question.startswith("Ten men ran.\n\nHow many?\n\nEnd with")
  assert (prompts[0].verifier, prompts[1].metadata) == (
      "drop", {"query_id": "q2"})
  assert [line.partition(": ")[2] for line in bad] == [
      "no answer: neither number, spans nor date"] * 2 + [
          "no text under 'question'"]


def test_simpleqa(tmp_path):
  path = cases.table(
      tmp_path / "simple_qa_test_set.csv", ["metadata", "problem", "answer"],
      ["{'topic': 'Art', 'urls': []}", "Who?", " Ada "],
      ["open('x')", "Who else?", "Bob"], ["{}", "", "Bob"])
  prompts, bad = cases.read(readers.simpleqa, path)
  assert [(p.question, p.reference, p.verifier, p.metadata)
          for p in prompts] == [
      ("Who?", "Ada", "", {"topic": "Art"}), ("Who else?", "Bob", "", {})]
  assert len(bad) == 1


def test_chinese_simpleqa(tmp_path):
  row = {"question": "谁?", "answer": "某人", "primary_category": "人"}
  path = cases.lines(tmp_path / "chinese_simpleqa.jsonl", row,
                     cases.without(row, "answer"))
  (prompt,), bad = cases.read(readers.chinese_simpleqa, path)
  assert (prompt.language, prompt.reference, len(bad)) == ("zh", "某人", 1)


def test_frames_with_and_without_articles(tmp_path):
  path = cases.table(
      tmp_path / "test.tsv", ["Prompt", "Answer", "reasoning_types",
                              "wiki_links"],
      ["Who?", "Ada", "Tabular", "['http://w/A', 'http://w/B#part']"],
      ["Why?", "So", "", "http://w/A"], delimiter="\t")
  (alone,), bad = cases.read(readers.frames, path)
  assert alone.question == "Who?" and alone.metadata["articles"] == 0
  assert len(bad) == 1 and "'wiki_links' is no list" in bad[0]
  cases.lines(tmp_path / "articles.jsonl", {"link": "http://w/A", "text": "a"})
  assert "no article http://w/B" in cases.read(readers.frames, path)[1][0]
  cases.lines(tmp_path / "articles2.jsonl",
              {"link": "http://w/B", "text": "bee"})
  (shown,), _ = cases.read(readers.frames, path)
  assert shown.question == "Use these articles:\n\na\n\nbee\n\nWho?"
  assert shown.metadata["articles"] == 2
