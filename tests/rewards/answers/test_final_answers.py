"""One reader of final answers, whichever rule asks.

What is denied, supposed or taken back is no answer, in a box, a statement, a
list or a table; and what is said beside an answer does not spoil it.
"""

import gc
import json
import pathlib
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response, rules

OPTIONS = {"A": "nucleus", "B": "mitochondrion", "C": "ribosome",
           "D": "a cell wall"}
# (verifier, reference, its spelling X, another answer Y)
READERS = [
    ("exact", "yes", "yes", "no"), ("exact", "invalid", "invalid", "valid"),
    ("choice", {"answer": "B", "options": OPTIONS}, "B", "C"),
    ("math", "24", "24", "25"), ("literal", {"value": "24"}, "24", "25"),
    ("set", ["red", "blue"], "red, blue", "red, green")]
FORMS = [  # what is said of X, beside Y; whether X is the answer
    ('The answer is X.', 1),
    ('The answer is: X', 1),
    ('**Answer:** X', 1),
    ('**Answer: X**', 1),
    ('Answer: X', 1),
    ('Final answer: X', 1),
    ('The final answer is X', 1),
    ('So the correct answer is X.', 1),
    ('Answer = X', 1),
    ('#### X', 1),
    ('答案是X。', 1),
    ('答案为X', 1),
    ('答案：X', 1),
    ('故答案为X。', 1),
    ('因此答案是X', 1),
    ('最终答案：X', 1),
    ('正确答案是X。', 1),
    ('所以正确答案为：X。', 1),
    ('The answer must be X.', 1),
    ('The answer should be X.', 1),
    ('The answer is therefore X.', 1),
    ('The answer would be X.', 1),
    ('The answer is clearly X.', 1),
    ('The correct answer is **X**.', 1),
    ('My answer is X.', 1),
    ('Therefore, the answer is X.', 1),
    ('The answer to the question is X.', 1),
    ('The answer is X, not Y.', 1),
    ('The answer is not Y but X.', 1),
    ('The answer is not Y. The answer is X.', 1),
    ('The answer is $X$.', 1),
    ('ANSWER: X', 1),
    ('Answer:\nX', 1),
    ('The answer is\n\nX', 1),
    ('答案应该是X。', 1),
    ('答案应为X。', 1),
    ('答案就是X。', 1),
    ('答案不是Y，而是X。', 1),
    ('The answer is X. Wait, that is wrong. The answer is Y.', 0),
    ('The answer is X. No, it is Y.', 0),
    ('The answer is X. Actually, Y.', 0),
    ('The answer is X. Actually, it is Y.', 0),
    ('The answer is X. That is wrong.', 0),
    ('The answer is X? No.', 0),
    ('The answer is X. On second thought, no.', 0),
    ('The answer is not X.', 0),
    ("The answer isn't X.", 0),
    ('The answer cannot be X.', 0),
    ("The answer can't be X.", 0),
    ('The answer is never X.', 0),
    ('答案不是X。', 0),
    ('答案并非X。', 0),
    ('答案不可能是X。', 0),
    ('It is false that the answer is X.', 0),
    ('It is not true that the answer is X.', 0),
    ('It is not the case that the answer is X.', 0),
    ("It's untrue that the answer is X.", 0),
    ("I don't think the answer is X.", 0),
    ('I doubt that the answer is X.', 0),
    ('Nobody says that the answer is X.', 0),
    ('If the answer is X, then I am wrong.', 0),
    ('Suppose the answer is X.', 0),
    ('Is the answer X?', 0),
    ('Could the answer be X?', 0),
    ('The wrong answer is X.', 0),
    ('An incorrect answer is X.', 0),
    ('The answer is X or Y.', 0),
    ('The answer is X and Y.', 0),
    ('The answer is either X or Y', 0),
    ('认为答案是X是错误的。', 0),
    ('答案是X吗？', 0),
    ('答案是X？不对。', 0),
    ('如果答案是X，那么矛盾。', 0),
    ('答案是X，不对，答案是Y。', 0),
    ('答案不会是X。', 0),
    ('错误答案是X。', 0),
    ('并不是说答案是X。', 0),
    ('The answer is anything but X.', 0),
    ('The answer is other than X.', 0),
    ('The answer is far from X.', 0),
    ('The answer is the opposite of X.', 0),
    ('The answer is no longer X.', 0),
    ('The answer is everything except X.', 0),
    ('The answer is hardly X.', 0),
    ('X is not the answer.', 0),
    ('X is wrong.', 0),
    ('X is false.', 0),
    ('Not X.', 0),
    ('not X', 0),
    ('never X', 0),
    ('non-X', 0),
    ('~X', 0),
    ('!X', 0),
    ('¬X', 0),
    ('\\neg X', 0),
    ('不是X', 0),
    ('非X', 0),
    ('\\boxed{\\neg X}', 0),
    ('\\boxed{\\text{not }X}', 0),
    ('\\boxed{not X}', 0),
    ('\\boxed{\\lnot X}', 0),
    ('It is false that \\boxed{X}.', 0),
    ('It is not \\boxed{X}.', 0),
    ('The answer is not \\boxed{X}.', 0),
    ('\\boxed{X} is wrong.', 0),
    ('\\boxed{X} is not the answer.', 0),
    ('答案不是\\boxed{X}。', 0),
    ('<answer>not X</answer>', 0),
    ('<answer>It is false that X</answer>', 0),
    ('The answer \\boxed{X} is incorrect; it is Y', 0),
    ('\\boxed{X}. Wait, that is wrong. It is Y.', 0),
]
CASES = [json.loads(line) for line in pathlib.Path(__file__).with_name(
    "final_answers.jsonl").read_text().splitlines()]
LONG = 200_000  # characters of a hostile answer
SECONDS = 2  # of processor time


def judge(verifier, gold, answer):
  prompt = Prompt(
      id=0, domain="logic", source="test", messages=ask("?"), reference=gold,
      verifier=verifier, metadata={"extract": "last"})
  return rules.VERIFIERS[verifier](
      prompt, response.split("", f"x</think>{answer}"))


@pytest.mark.parametrize("form,right", FORMS)
def test_every_rule_reads_a_statement_alike(form, right):
  for verifier, gold, x, y in READERS:
    if verifier in ("set", "math") and form == "The answer is X, not Y.":
      continue  # "red, blue, not red, green", "42, not 24": two numbers
    score = judge(verifier, gold, form.replace("X", x).replace("Y", y))
    assert (score.value, score.valid) == (right, True), (verifier, x, score)


@pytest.mark.parametrize("verifier", sorted({c["verifier"] for c in CASES}))
def test_cases(verifier):
  wrong = [(case["completion"], score) for case in CASES
           if case["verifier"] == verifier
           for score in [judge(verifier, case["gold"], case["completion"])]
           if score.value != case["right"]]
  assert not wrong


@pytest.mark.parametrize("piece", [
    "the answer is ", "答案是1", "answer====", "\\boxed{1}", "not \\boxed{1} ",
    "wait, ", "no no ", "that is wrong. ", "I was wrong. ", "不是", "\n####1",
    "final answer:\n", "|a|\n", "Zoey is a knight, ", "= * ", "if "])
def test_long_texts_take_linear_time(piece):
  grid = {"Zoey": {"role": "knight"}, "Bob": {"role": "knave"}}
  for verifier, gold, length in (
      *((name, gold, LONG) for name, gold, *_ in READERS),
      ("grid", grid, 19_000)):
    assert _seconds(verifier, gold, piece * (length // len(piece))) < SECONDS


def _seconds(verifier, gold, text):
  """Without the garbage of the tests before, which is collected in ours."""
  gc.collect()
  gc.disable()
  try:
    began = time.thread_time()
    judge(verifier, gold, text)
    return time.thread_time() - began
  finally:
    gc.enable()
