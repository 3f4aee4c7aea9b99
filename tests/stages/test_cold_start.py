"""R1-Zero's answers rewritten and checked again."""

import dataclasses
import json

import pytest

from r1jax.core.config import DataError
from r1jax.core.prompt import Prompt, ask
from r1jax.data.sources.selection import Report, Sample, SelectConfig
from r1jax.rewards import rules
from r1jax.rewards.combine import Combine
from r1jax.rewards.pool.runner import Pool
from r1jax.stages import cold_start, dialogues, programs, rewriting
from r1jax.stages.evaluating import EvalConfig
from r1jax.stages.judging import Judge
from r1jax.stages.loop import batches
from r1jax.stages.loop.signals import Preemption
from r1jax.stages.rewriting import Draft, Rewrite
from tests.stages import cases

CFG = EvalConfig(samples=2)
SELECT = SelectConfig(keep=2)
PROMPTS = [Prompt(id=i, domain="math", source="toy", reference=str(2 * i),
                  messages=ask(f"What is {i} + {i}?"), verifier="math",
                  language="zh" if i == 4 else "en") for i in range(6)]
CHINESE = "我把四加四, 得到八"


def texts(prompt):
  """Two samples: right, and wrong."""
  i = prompt.id
  thought = CHINESE if prompt.language == "zh" else f"we add {i} and {i}"
  return [f"<think> {thought} </think> <answer> {2 * i} </answer>",
          "<think> we guess </think> <answer> 1 </answer>"]


@pytest.fixture
def workdir(tmp_path):
  """A folder with the samples of all questions."""
  def work(prompts):
    return [{"id": p.id, "samples": [Sample(
        text=text, accuracy=float(not k), format=1.0, valid=True, reason="",
        truncated=False, tokens=9)._asdict() for k, text in enumerate(texts(p))
    ]} for p in prompts]

  batches.store(tmp_path / "samples", PROMPTS, CFG.batch, work, title="samples",
                unit="questions")
  return tmp_path


@pytest.fixture(scope="module")
def judge():
  with Pool({"accuracy": rules.VERIFIERS}, workers=1) as pool:
    yield Judge(cases.tokenizer(), "r1-zero", pool, Combine())


def rewrite(draft):
  """A good one, but of question 1 another answer, of 2 none, and so on."""
  i = draft.prompt.id
  thought = {3: "Adding both numbers.", 4: CHINESE, 5: "I 把五加五得到十"}.get(
      i, f"I add {i} and {i}.")
  summary = {1: r"It is \boxed{3}.", 4: r"答案是 \boxed{8}"}.get(
      i, rf"It is \boxed{{{2 * i}}}.")
  return None if i == 2 else Rewrite(thought, summary)


def test_what_passes_the_second_check(workdir, judge, monkeypatch):
  """Stopped after its first batch, it goes on with the second."""
  before, drafts = Report(), []
  chosen = cold_start.chosen(CFG, SELECT, PROMPTS, workdir, before)
  assert before.fates["math"] == {"kept": 6, "wrong": 6}
  assert chosen[1] == (Draft(PROMPTS[1], "we add 1 and 1", "2"), 0)

  def rewriter(some):
    drafts.extend(some)
    return [rewrite(draft) for draft in some]

  asked = []
  with monkeypatch.context() as patch:
    patch.setattr(Preemption, "requested",
                  lambda self: len(asked) == 1 or asked.append(1))
    assert not cold_start.rewrite(chosen, rewriter, judge, workdir, batch=4)
  assert [d.prompt.id for d in drafts] == [0, 1, 2, 3]
  assert cold_start.rewrite(chosen, rewriter, judge, workdir, batch=4)
  assert [d.prompt.id for d in drafts] == list(range(6))

  def written(**more):
    report = Report()
    text = dialogues.write(workdir, cold_start.rows(
        chosen, judge, workdir, SELECT, report, batch=4, **more), report,
        before=before, settings={})
    rows = (workdir / "sft.jsonl").read_text().splitlines()
    return report.fates["math"], [json.loads(row) for row in rows], text

  fates, rows, text = written()
  assert fates == {"kept": 2, "another answer": 1, "no rewrite": 1,
                   "mixed language": 1, "not in the first person": 1}
  assert [row["id"] for row in rows] == [0, 4]
  assert rows[0]["messages"] == [
      {"role": "user", "content": "What is 0 + 0?"},
      {"role": "assistant", "content": "<think>\nI add 0 and 0.\n</think>\n\n"
       r"It is \boxed{0}."}]
  assert rows[1]["language"] == "zh"
  assert "samples" in text and "rewritten" in text
  stored = json.loads((workdir / "report.json").read_text())
  assert stored["samples"]["math"] == {"kept": 6, "wrong": 6}
  assert stored["answers"]["math"]["no rewrite"] == 1
  fates, rows, _ = written(first_person=False)
  assert fates["kept"] == 3 and [row["id"] for row in rows] == [0, 3, 4]


@pytest.mark.parametrize("text,fate", [
    ("<think>I add.</think> 2", None),
    ("<think>I add.</think>", "other form"),
    ("<think>I add.</think> <answer>2</answer>", "other form"),
    ("so <think>I add.</think> 2", "other form"),
    ("<think>.</think> 2", "empty thought"),
    ("<think>I add.</think> 答案是二", "mixed language in the summary"),
    ("<think>We add, in island style.</think> 2", "not in the first person"),
    ("<think>Let me add.</think> 2", None)])
def test_a_rewritten_answer_that_does_not_fit(text, fate):
  assert rewriting.unfit(text, PROMPTS[1], SELECT) == fate


def test_we_in_chinese_is_not_the_first_person_singular():
  assert rewriting.unfit("<think>我们把四加四</think> 八", PROMPTS[4], SELECT
                         ) == "not in the first person"
  french = dataclasses.replace(PROMPTS[1], language="fr")
  assert rewriting.unfit("<think>Deux et deux</think> 4", french, SELECT
                         ) is None


@pytest.mark.parametrize("text,want", [
    (" <thought>\nI\n</thought>\n<summary> 2 </summary>\n", ("I", "2")),
    ("Hm.</think> <thought>I</thought><summary>2</summary>", ("I", "2")),
    ("Sure: <thought>I</thought><summary>2</summary>", None),
    ("<thought>I</thought><thought>I</thought><summary>2</summary>", None),
    ("<thought>I</thought><summary> </summary>", None),
    ("<summary>2</summary><thought>I</thought>", None),
    ("<thought>I</thought>", None), ("", None), (None, None)])
def test_replies_are_read_strictly(text, want):
  assert rewriting.parsed(text) == want


def test_a_model_is_shown_everything_between_marks():
  asked = []

  def generate(conversations):
    asked.extend(conversations)
    return ["<thought>I</thought><summary>2</summary>"] * len(conversations)

  drafts = [Draft(PROMPTS[i], f"thought {i}", f"answer {i}") for i in (3, 4)]
  found = rewriting.from_generate(generate, seed=0)(drafts)
  assert found == [Rewrite("I", "2")] * 2
  first, second = (c[0]["content"] for c in asked)
  for part in ("What is 3 + 3?", "thought 3", "answer 3", "in\nEnglish",
               "\\boxed{...}"):
    assert part in first
  assert "in\nChinese" in second
  mark = first.partition("<question ")[2][:8]
  assert first.count(mark) == 7 and mark not in second
  with pytest.raises(ValueError, match="1 texts for 2 drafts"):
    rewriting.from_generate(lambda _: [""], seed=0)(drafts)


def test_a_program_rewrites(tmp_path):
  path = tmp_path / "rewriter.py"
  path.write_text("def rewrite(prompt, thought, answer):\n"
                  "  return (thought.upper(), answer) if thought else None\n")
  made = rewriting.rewriter(f"{path}:rewrite", None)
  assert made([Draft(PROMPTS[0], "a", "b"), Draft(PROMPTS[0], "", "b")]) == [
      Rewrite("A", "b"), None]
  with pytest.raises(ValueError, match="has no function 'other'"):
    programs.load(f"{path}:other")
  path.write_text("import json\ndef judge(prompt):\n  return json.loads('{')\n")
  judge = programs.load(f"{path}:judge")
  with pytest.raises(DataError, match=r"judge fails: JSONDecodeError .*,"
                     rf" line 3 of {path}$"):
    judge("x")
  with pytest.raises(DataError, match=r"TypeError \(judge\(\) takes 1 .*\)$"):
    judge("x", "y")
