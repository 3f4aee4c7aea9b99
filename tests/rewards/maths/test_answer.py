from __future__ import annotations

import pathlib
import random
import subprocess
import sys
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response, rules
from r1jax.rewards.answers import boxes, last_number
from r1jax.rewards.combine import RewardConfig
from r1jax.rewards.maths import answer as math
from r1jax.rewards.maths import values
from tests.rewards.test_corpus import CORPUS


def score(reference, completion, question="?", **metadata):
  prompt = Prompt(
      id=1, domain="math", source="test", messages=ask(question),
      reference=reference, verifier="math", metadata=metadata)
  return math.verify(prompt, response.split("<think>", completion))


CORRECT = [
    ("38", "38"),
    ("12", "12.0"),
    ("12.", "12"),
    ("1,000", "1000"),
    ("1{,}000", "1000"),
    ("$18", "18"),
    (r"\$18", "18"),
    ("-$5", "-5"),
    ("$38$", "38"),
    ("50%", "50"),
    (r"50\%", "50"),
    ("50%", "0.5"),
    ("0.5", "50%"),
    ("3/4", "0.75"),
    (r"\frac{3}{4}", "3/4"),
    (r"-\dfrac{3}{4}", "-0.75"),
    ("x = 12", "12"),
    (r"\text{38}", "38"),
    (r"38\text{ dollars}", "38"),
    (r"100^{\circ}", "100"),
    (r"3\times 10^8", "300000000"),
    (r"5\frac{1}{2}", "5.5"),
    ("(1,2)", "(1,2)"),
    ("(1, 2)", "(1,2)"),
    (r"\text{B}", r"\text{B}"),
    ("B", r"\text{B}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"2\sqrt{3}", r"2\sqrt{3}"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    ("123456789012345678901234567890", "123456789012345678901234567890.0"),
]
WRONG = [
    ("37", "38", "wrong"),
    ("-5", "5", "wrong"),
    ("1,00", "100", "two answers"),
    ("38 39", "38", "wrong"),
    ("38, 39", "38", "two answers"),
    ("38 or 39", "38", "two answers"),
    (r"\{38,39\}", "38", "wrong"),
    ("5000%", "50%", "wrong"),
    ("1/3", "0.333333", "wrong"),
    ("123456789012345678901234567890", "123456789012345678901234567891",
     "wrong"),
    ("(2,1)", "(1,2)", "wrong"),
    ("A", r"\text{B}", "wrong"),
    ("2", r"2\sqrt{3}", "wrong"),
    ("[1,2]", "[1,2)", "wrong"),
    ("x^2+1", "x^2+2x+1", "wrong"),
    ("__import__('os').system('id')", "1", "wrong"),
    ("10+5", "15", "unevaluated"),
    ("3*4=12", "12", "unevaluated"),
    ("24/2", "12", "unevaluated"),
    (r"\frac{24}{2}", "12", "unevaluated"),
    (r"\sqrt{144}", "12", "unevaluated"),
    ("x+", "x", "unparsed"),
]
HOSTILE = [
    r"2^{2^{2^{2^{2^{2}}}}}", r"9^{9^{9^{9}}}", "9^9^9^9", "9**9**9**9",
    "(9^9)^{(9^9)}", "(9^{9999})^{9999}", "e^{9^{9^9}}", "(x+1)^{5000}",
    "99999999!", "((999!)!)", "99!!!", r"\binom{1000000}{500000}",
    r"\sum_{n=1}^{10} n", "(" * 40 + "x" + ")" * 40, "x" * 301, "9" * 21 + "x",
    "^".join("x" * 30),
]


@pytest.mark.parametrize("answer,reference", CORRECT)
def test_correct(answer, reference):
  assert math.compare(answer, reference) == "correct"


@pytest.mark.parametrize("answer,reference,reason", WRONG)
def test_wrong(answer, reference, reason):
  assert math.compare(answer, reference) == reason


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize("gold", ["x+1", "5", "n!", r"\lfloor x\rfloor"])
def test_hostile_answers_cost_next_to_nothing(answer, gold):
  math.compare("x", "x+1")  # mpmath is loaded
  start = time.perf_counter()
  assert math.compare(answer, gold) in (
      "too large", "unevaluated", "wrong", "unparsed")
  assert time.perf_counter() - start < 1


@pytest.mark.parametrize("answer", [
    r"\lfloor((10-20)^{\exp(2)})!!\rfloor", "(x+0.5)!", "(-3)!", r"2.5!",
    r"\binom{10^9}{5}", "(10^6)!", "((20!)!)!", r"\binom{-1}{2}"])
def test_factorials_are_of_small_natural_numbers(answer):
  """Nothing is evaluated that burns a deadline, and be better off for it."""
  node = math.expressions.read(math.notation.plain(answer))
  assert node is not None
  start = time.perf_counter()
  assert not values.same(node, node)
  assert time.perf_counter() - start < 1


@pytest.mark.parametrize("text,contents,nested", [
    (r"\boxed{1} and \boxed{2}", ["1", "2"], False),
    (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"], False),
    (r"\boxed{\{1,2\}}", [r"\{1,2\}"], False),
    (r"\boxed{1} and \boxed{2", ["1"], False),
    (r"\boxed{\boxed{3}}", [r"\boxed{3}"], True),
    (r"} \boxed {4} }", ["4"], False),
    (r"\boxed{ }", [""], False),
    ("none", [], False),
])
def test_boxes(text, contents, nested):
  found = boxes.boxes(text)
  assert ([box.content for box in found[0]], found[1]) == (contents, nested)
  assert all(text[box.start:].startswith("\\boxed") and (
      text[:box.end].endswith("}")) for box in found[0])


@pytest.mark.parametrize("text,found", [
    ("#### 18", ["18"]), ("so $x=3$", ["$x=3$"]), ("答案是42", ["42"]),
    ("The answer is 42.", ["42"]), ("The answer is 3 or 4.", ["3 or 4"]),
    ("Answer: 1. The answer is 2.", ["1", "2"]), ("1+41=42 eggs", ["42"]),
    ("It is 3, 4 or 5", ["3, 4 or 5"]), ("no number", []),
])
def test_stated(text, found):
  assert last_number.stated(text)[0] == found


@pytest.mark.parametrize("completion,reason", [
    (r"x</think>\boxed{38}", "correct"),
    (r"x</think>\boxed{39}", "wrong"),
    (r"x</think>\boxed{38} or \boxed{38.0}", "correct"),
    (r"x</think>\boxed{39} or \boxed{38}", "two answers"),
    (r"x</think>\boxed{37 or 38}", "two answers"),
    (r"x</think>\boxed{\boxed{38}}", "nested boxes"),
    (r"x</think>\boxed{}", "empty box"),
    (r"x</think>\boxed{30+8}", "unevaluated"),
    (r"x</think>\boxed{38" + "^9" * 200 + "}", "too large"),
    ("x</think>The answer is 38.", "no answer"),
    (r"\boxed{38}</think>So.", "no answer"),
    ("x</think><answer>38</answer>", "correct"),
    ("x</think><answer>37, 38</answer>", "two answers"),
    ("", "no answer"),
])
def test_reasons(completion, reason):
  got = score("38", completion)
  assert (got.reason, got.valid) == (reason, True)
  assert got.value == float(reason == "correct")
  assert (got.answer == "38") >= (reason == "correct")


def test_the_last_number_counts_only_where_the_data_say_so():
  assert score("38", "x</think>It is 38.", extract="last").value == 1.0
  assert score("38", "x</think>It is 38.").reason == "no answer"
  assert score("38", "x</think>It is 39.", extract="last").reason == "wrong"


def test_the_question_is_no_answer_to_itself():
  question = "Expand $(x+1)(x + 2)$."
  box = r"x</think>\boxed{%s}"
  gold = "x^2+3x+2"
  assert score(gold, box % "1(x+1)(x+2)", question).reason == "copied"
  assert score(gold, box % "(x+1)(x+2)", question).reason == "copied"
  assert score(gold, box % "(x+2)(x+1)").value == 1.0
  assert score(gold, box % gold, question).value == 1.0


def test_divisors_have_no_order():
  assert math.compare(r"\gcd(6,4)+x", r"x+\gcd(4,6)") == "correct"
  assert math.compare(r"\gcd(6,4)+2x", r"x+\gcd(4,6)") == "wrong"
  assert math.compare(r"\gcd(6,4)+y", r"x+\gcd(4,6)") == "wrong"


def test_answers_are_found_in_linear_time():
  start = time.thread_time()
  pieces = (r"\boxed{", r"\boxed{1}", "<answer>", r"\text{", "{", "<think>",
            "1 ", "1,", "answer is ", "答案是1", "#### ", "$", "1 or ", "-",
            r"\frac", " ", "\\(")
  for piece in pieces:
    long = piece * (200_000 // len(piece))
    for wrapper in ("%s", r"\boxed{%s}", "<answer>%s</answer>"):
      score("x+1", "x</think>" + wrapper % long, extract="last")
  assert time.thread_time() - start < 20


@pytest.mark.parametrize("same", [
    ("12", "12.0", " 12 ", "$12", "x = 12", "12 apples"),
    ("1/2", "0.5", r"\frac{1}{2}"),
    ("50%", r"50\%"), ("B", r"\text{B}"), ("1, 2", "2,1.0")])
def test_canonical(same):
  assert len({math.canonical(answer) for answer in same}) == 1
  assert math.canonical("13") != math.canonical("12")


def mutated(rng, text):
  """A text with a few pieces dropped, doubled, swapped in from others."""
  parts = ["\\frac", "{", "}", "^", "(", ")", "\\{", ",", "1", "x", "!",
           "\\sqrt", "|", "\\pm", "=", "<", "_", "\\text{", "或", "\\\\", "&",
           "%", "$", "99"]
  for _ in range(rng.randint(1, 5)):
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.randint(0, 4))
    text = text[:at] + rng.choice([*parts, text[at:end] * 2]) + text[end:]
  return text


@pytest.mark.parametrize("count", [
    1500, pytest.param(30_000, marks=pytest.mark.slow)])
def test_mutated_answers_end_soon_and_raise_nothing(count):
  rng = random.Random(0)
  golds = [row["gold"] for row in CORPUS if row["verifier"] == "math"]
  for _ in range(count):
    answer = mutated(rng, rng.choice(golds))
    start = time.perf_counter()
    got = score(rng.choice(golds), f"x</think>\\boxed{{{answer}}}",
                extract="last")
    assert got.valid and got.value in (0.0, 1.0) and got.reason
    assert time.perf_counter() - start < 2, answer


def test_many_a_second():
  rows = [row for row in CORPUS if row["verifier"] == "math"]
  start = time.perf_counter()
  for row in rows:
    score(row["gold"], f"x</think>{row['response']}")
  rate = len(rows) / (time.perf_counter() - start)
  assert rate > 30  # ten times slower than one idle core: loaded machines pass


def test_numbers_need_no_sympy_and_no_jax():
  code = (
      "import sys, types\n"
      "from r1jax.rewards import response\n"
      "from r1jax.rewards.maths import answer as math\n"
      "p = types.SimpleNamespace(reference='1,000', metadata={}, question='')\n"
      "r = response.split('', 'x </think> <answer> $1000.0 </answer>')\n"
      "assert math.verify(p, r).value == 1.0\n"
      "bad = {'sympy', 'mpmath', 'math_verify', 'jax', 'flax', 'numpy'}\n"
      "print(sorted(bad & set(sys.modules)))\n")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                        text=True, cwd=pathlib.Path(__file__).parents[3])
  assert done.stdout.strip() == "[]", done.stderr


def test_extract_last_is_a_choice_of_the_run():
  strict = rules.select(RewardConfig())["accuracy"]["math"]
  lenient = rules.select(RewardConfig(extract="last", code="fraction"))
  prompt = Prompt(id=1, domain="math", source="x", messages=ask("How many?"),
                  reference="38", verifier="math")
  said = response.split("", "</think>So there are 38.")
  assert strict(prompt, said).reason == "no answer"
  assert lenient["accuracy"]["math"](prompt, said).value == 1.0
  assert lenient["accuracy"]["code"] is not rules.VERIFIERS["code"]
  boxed = response.split("", "</think>So 38, no: \\boxed{39}.")
  assert lenient["accuracy"]["math"](prompt, boxed).reason == "wrong"
