from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

import pytest

from r1jax.core.types import Prompt
from r1jax.rewards import limits, math

DATA = pathlib.Path(__file__).parents[2] / "../shared/data/gsm8k"


def prompt(reference):
  return Prompt(id=1, domain="math", source="test", question="?",
                reference=reference)


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
    ("1,00", "100", "wrong"),
    ("38 39", "38", "wrong"),
    ("38, 39", "38", "wrong"),
    ("38 or 39", "38", "wrong"),
    (r"\{38,39\}", "38", "wrong"),
    ("three", "3", "wrong"),
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
def test_hostile_answers_never_reach_sympy(monkeypatch, answer):
  monkeypatch.setattr(math, "_library", None)
  start = time.perf_counter()
  assert math.compare(answer, "x+1") == "too large"
  assert math.compare(answer, "5") in ("too large", "unevaluated", "wrong")
  assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize("reference", [
    "e^{x^2}", "x^{2008}", r"2^{100}", "10!", r"\binom{10}{5}", "(x+1)^{10}",
    r"\frac{1+\sqrt{5}}{2}", "e^{i\\pi/3}", "(-1)^{n+1}"])
def test_honest_answers_are_not_too_large(reference):
  assert not limits.too_large(reference)


CUT = [
    ("", "<think> x </think> <answer> 38 </answer>", "38"),
    ("", "<answer>1</answer> then <answer> 2 </answer>", "2"),
    ("", "<answer>1 <answer> 2 </answer>", "2"),
    ("", "<answer>5</answer> </answer>", "5"),
    ("", "<answer>5</answer> <answer> 7", "5"),
    ("", r"<answer> It is \boxed{7}. </answer>", "7"),
    ("", r"\boxed{1} and \boxed{2}", "2"),
    ("", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ("", r"\boxed{\{1,2\}}", r"\{1,2\}"),
    ("", r"\boxed{1} and \boxed{2", "1"),
    ("", r"\boxed{\boxed{3}}", "3"),
    ("", r"} \boxed {4} }", "4"),
    ("", r"<think> \boxed{1} </think> so", None),
    ("", r"<think> <answer>1</answer> </think> 2", None),
    ("", r"<think> \boxed{1} and on", None),
    ("<think>\n", r"maybe \boxed{1} and on", None),
    ("<think>\n", r"x </think> <answer>3</answer>", "3"),
    ("", "<think>a</think><answer>1</answer><think>b", "1"),
    ("<think> x </think> <answer>", " 3 </answer>", "3"),
    ("", "<answer> </answer>", None),
    ("", "38", None),
    ("", "", None),
]


@pytest.mark.parametrize("tail,completion,answer", CUT)
def test_final_answer(tail, completion, answer):
  assert math.final_answer(tail, completion) == answer


def test_answers_are_found_in_linear_time():
  start = time.perf_counter()
  for piece in (r"\boxed{", "<answer>", "</answer>", r"\text{", "{", "<think>"):
    math.final_answer("", piece * 20_000)
    math.compare(piece * 20_000, "1")
  assert time.perf_counter() - start < 5


def test_accuracy():
  right = math.accuracy(prompt("38"), "", "<answer> 38 </answer>")
  assert (right.value, right.valid, right.reason) == (1.0, True, "correct")
  none = math.accuracy(prompt("38"), "", "38")
  assert (none.value, none.valid, none.reason) == (0.0, True, "no answer")


@pytest.mark.parametrize("same", [
    ("12", "12.0", " 12 ", "$12", "x = 12"), ("1/2", "0.5", r"\frac{1}{2}"),
    ("50%", r"50\%"), ("B", r"\text{B}")])
def test_canonical(same):
  assert len({math.canonical(answer) for answer in same}) == 1
  assert math.canonical("13") != math.canonical("12")


def test_every_gsm8k_reference_is_rewarded_as_its_own_answer():
  if not DATA.is_dir():
    pytest.skip(f"no GSM8K at {DATA}")
  golds = []
  for split in ("train", "test"):
    for line in (DATA / f"{split}.jsonl").read_text().splitlines():
      golds.append(json.loads(line)["answer"].rpartition("####")[2].strip())
  assert len(golds) == 8792
  for gold in golds:
    assert math.number(gold) is not None
    text = f"<think> x </think> <answer> {gold} </answer>"
    assert math.accuracy(prompt(gold), "", text).value == 1.0
    off = f"<think> x </think> <answer> {gold}1 </answer>"
    assert math.accuracy(prompt(gold), "", off).value == 0.0


def test_numbers_need_no_sympy_and_rules_no_jax():
  code = (
      "import sys, types\n"
      "from r1jax.rewards import rules\n"
      "p = types.SimpleNamespace(reference='1,000')\n"
      "for rule in rules.RULES.values():\n"
      "  t = '<think> x </think> <answer> $1000.0 </answer>'\n"
      "  assert rule(p, '', t).value == 1.0\n"
      "bad = {'sympy', 'math_verify', 'jax', 'flax', 'numpy'}\n"
      "print(sorted(bad & set(sys.modules)))\n")
  done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                        text=True, cwd=pathlib.Path(__file__).parents[2])
  assert done.stdout.strip() == "[]", done.stderr
