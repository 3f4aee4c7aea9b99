"""Logic answers: what is accepted in which spelling, and what is not."""

import random
import time

import pytest

from r1jax.core.prompt import Prompt, ask
from r1jax.rewards import response
from r1jax.rewards.logic import literals, verdicts
from r1jax.rewards.logic.plain import plain

LONG = 200_000  # characters of a hostile answer
SECONDS = 2  # of processor time that one of them may take


def judge(rule, reference, answer, tail="<think>"):
  prompt = Prompt(id=0, domain="logic", source="test", messages=ask("?"),
                  reference=reference, verifier="any")
  return rule(prompt, response.split(tail, f"so</think>{answer}"))


EXACT = [
    # (reference, answers that are right, answers that are wrong)
    ("(A)", ["(A)", "A", "a.", "**(A)**", "The answer is (A).", "\\boxed{A}",
             "\\boxed{\\text{(A)}}", "<answer>(A)</answer>", "（A）",
             "Because of that.\n\nAnswer: (A)", "答案是 (A)。",
             "The answer is (A).\nSo the answer is A",
             "The answer is not (B). The answer is (A)"],
     ["(B)", "(A) or (B)", "(A)(B)", "A B", "not (A)", "",
      "The answer is (B), the answer is (A)", "\\boxed{A} \\boxed{B}",
      "\\boxed{\\boxed{A}}", "(A)\nor rather\n(B)", "(A) (B) (C) (D)"]),
    ("True", ["true", "`True`", "**Answer:** True", "**Answer**: True",
              "# Final answer\n\nTrue", "```\nTrue\n```", "$\\text{True}$"],
     ["False", "True False", "not True", "True, or False", "1"]),
    ("Yes", ["yes", "Yes.", "The final answer is: yes", "\\boxed{Yes}"],
     ["No", "Yes and no", "yesno", "yes\nno", "Answer: yes\nAnswer: no"]),
    ("invalid", ["invalid", "The answer is invalid."], ["valid", "in valid"]),
    ("-50", ["-50", "−50", "-50.", "$-50$", "-50.0"], ["50", "-5", "-500"]),
    ("1000", ["1000", "1,000", "1000.00", "+1000"], ["1,00", "100", "10,000"]),
    ("] ] >", ["] ] >", "]]>", "] ]>", "The answer is ] ] >", "`] ] >`"],
     ["] ]", "] ] ] >", "> ] ]", "]", ""]),
    ("}", ["}"], ["{", "} }", ")"]),
    ("it&t malton onus", ["it&t malton onus", "it&t, malton, onus",
                          "It&T Malton Onus"],
     ["it&t onus malton", "it&t malton", "it&t malton onus onus"]),
    ("北京", ["北京", "答案：北京", "**答案**：北京。"],
     ["上海", "北京和上海"]),
]


@pytest.mark.parametrize("reference,right,wrong", EXACT)
def test_exact(reference, right, wrong):
  for answer in right:
    score = judge(verdicts.exact, reference, answer)
    assert score.value == 1 and score.reason == "correct", answer
    assert score.answer == plain(reference)
  for answer in wrong:
    assert judge(verdicts.exact, reference, answer).value == 0, answer


def test_nothing_in_the_thinking_counts():
  prompt = Prompt(id=0, domain="logic", source="test", messages=ask("?"),
                  reference="yes", verifier="exact")
  for text in ("<think>yes", "<think>\\boxed{yes}</think>",
               "<think>The answer is yes</think>no", "</think><think>yes"):
    assert verdicts.exact(prompt, response.split("", text)).value == 0


@pytest.mark.parametrize("answer,reason", [
    ("", "no answer"), ("  \n", "no answer"), ("\\boxed{}", "no answer"),
    ("yes", "correct"), ("no", "wrong"),
    ("\\boxed{yes} or \\boxed{no}", "two answers"),
    ("answer: yes\nanswer: no", "two answers")])
def test_reasons(answer, reason):
  score = judge(verdicts.exact, "yes", answer)
  assert score.reason == reason and score.valid


@pytest.mark.parametrize("a,b", [("?", "!"), ("*", "_"), ("(A)", "[A]"),
                                 ("5", "5%"), ("]", "] ]"), ("a b", "ab")])
def test_plain_keeps_apart(a, b):
  assert plain(a) != plain(b)


def test_unordered():
  gold = ["red", "dark blue", "green", "red"]
  for answer in ("red, dark blue, green, red", "red; red; green; Dark Blue",
                 "red, red, green and dark blue",
                 "{red, red, dark blue, green}", "[green, red,dark blue,red]",
                 "- red\n- green\n- dark blue\n- red",
                 "The answer is red、red、green和dark blue。",
                 "They are:\n1. red\n2. red\n3. green\n4. dark blue",
                 "\\boxed{red, red, green, dark blue}"):
    assert judge(verdicts.unordered, gold, answer).value == 1, answer
  for answer in ("red, dark blue, green", "red, red, red, dark blue, green",
                 "red, dark, blue, green, red", "", "red dark blue green red",
                 "red, dark blue, green, red, yellow", "red, red, green, blue"):
    assert judge(verdicts.unordered, gold, answer).value == 0, answer


def test_words_of_an_item_do_not_part_it():
  gold = ["salt and pepper", "oil"]
  assert judge(verdicts.unordered, gold, "oil, salt and pepper").value == 1
  assert judge(verdicts.unordered, gold, "oil, salt, pepper").value == 0


ZEBRA = {"House 1": {"color": "red", "pet": "dog"},
         "House 2": {"color": "blue", "pet": "cat"}}


@pytest.mark.parametrize("answer", [
    '{"House 1": {"color": "red", "pet": "dog"},'
    ' "House 2": {"pet": "cat", "color": "Blue"}}',
    'Here it is:\n```json\n{"solution": {"house 1": {"color": "red",'
    ' "pet": "dog"}, "house 2": {"color": "blue", "pet": "cat"}}}\n```',
    "| House | Color | Pet |\n|---|:-:|---|\n| House 1 | red | dog |\n"
    "| House 2 | blue | cat |",
    "| | House 1 | House 2 |\n|--|--|--|\n| color | red | blue |\n"
    "| pet | dog | cat |",
    "House 1: color = red, pet = dog\nHouse 2: color = blue, pet = cat",
    "- House 1: color: red; pet: dog\n- House 2: color: blue; pet: cat",
    "<answer>House 1: color = red\nHouse 1: pet = dog\n"
    "House 2: color = blue\nHouse 2: pet = cat</answer>",
])
def test_grid(answer):
  score = judge(verdicts.grid, ZEBRA, answer)
  assert (score.value, score.parts["cells"]) == (1, 1), score
  swapped = answer.replace("dog", "x").replace("cat", "dog").replace("x", "cat")
  score = judge(verdicts.grid, ZEBRA, swapped)
  assert (score.value, score.parts["cells"]) == (0, 0.5), score


@pytest.mark.parametrize("answer,reason,cells", [
    ("", "no answer", None),
    ("I do not know", "no answer", None),
    ("House 1: color = red, pet = dog\nHouse 2: color = blue", "incomplete",
     0.75),
    ("House 1: color = red, pet = dog\nHouse 2: color = blue, pet = cat\n"
     "House 2: pet = dog", "contradiction", 0.75),
    ('{"House 1": {"color": "red", "color": "blue", "pet": "dog"},'
     ' "House 2": {"color": "blue", "pet": "cat"}}', "contradiction", 0.75),
    ("House 1: color = red or blue, pet = dog\nHouse 2: color = blue, "
     "pet = cat", "wrong", 0.75),
    ("\\boxed{House 1: color = red} \\boxed{House 2: color = red}",
     "two answers", None),
])
def test_grids_that_are_not_right(answer, reason, cells):
  score = judge(verdicts.grid, ZEBRA, answer)
  assert (score.value, score.reason, score.parts.get("cells")) == (
      0, reason, cells)


KNIGHTS = {"Zoey": {"role": "knight"}, "Bob": {"role": "knave"}}


def test_knights_and_knaves():
  for answer in ("Zoey is a knight, and Bob is a knave.",
                 "If Bob is a knight, he lies.\n\n"
                 "So Bob is a **knave** and Zoey is a knight",
                 "Zoey: knight\nBob: knave",
                 '{"Zoey": "knight", "Bob": "knave"}',
                 "| Name | Is |\n|---|---|\n| Zoey | knight |\n| Bob | knave |",
                 "\\boxed{Zoey is a knight, Bob is a knave}",
                 "zoey = knight, bob = knave"):
    assert judge(verdicts.grid, KNIGHTS, answer).value == 1, answer
  for answer in ("Zoey is a knave, and Bob is a knave.", "Zoey is a knight.",
                 "Zoey is a knight or knave, and Bob is a knave.",
                 "Zoey is a knight, and Bob is a knave. Bob is a knight.",
                 "Zoey is not a knight, and Bob is a knave.",
                 "knight, knave", "Joey is a knight, and Bob is a knave.", ""):
    assert judge(verdicts.grid, KNIGHTS, answer).value == 0, answer


LITERALS = [
    ("[(4, 1), (2, 3)]", ["[(4, 1), (2, 3)]", "`[(4,1),(2,3)]`",
                          "The output is computed.\n\n[(4, 1), (2, 3)]",
                          "```python\n[\n (4, 1),\n (2, 3),\n]\n```",
                          "\\boxed{[(4, 1), (2, 3)]}"],
     ["[[4, 1], [2, 3]]", "[(4, 1), (2, 3.0)]", "[(2, 3), (4, 1)]",
      "[(4, 1)]", "[(4, True), (2, 3)]", "list([(4, 1), (2, 3)])"]),
    ("{1: None, 'a': {2, 3}}", ["{'a': {3, 2}, 1: None}",
                                "\\boxed{\\{1: None, 'a': \\{2, 3\\}\\}}"],
     ["{1: None, 'a': [2, 3]}", "{True: None, 'a': {2, 3}}", "{1: None}"]),
    ("True", ["True"], ["1", "'True'", "true", "not False"]),
    ("'1'", ["'1'", '"1"', "The answer is '1'"], ["1", "b'1'", "'1 '"]),
    ("1", ["1", "The answer is 1.", "`1`."],
     ["1.0", "True", "'1'", "(1,)", "0x1", "2 - 1"]),
    ("(1,)", ["(1,)", "(1, )"], ["[1]", "(1)", "1,2"]),
    ("set()", ["set()"], ["{}", "[]"]),
    ("''", ["''", '""'], ["", "' '", "None"]),
    ("'a\\nb == c'", ["'a\\nb == c'"], ["'a b == c'", "'a\\\\nb == c'"]),
]


@pytest.mark.parametrize("reference,right,wrong", LITERALS)
def test_literals(reference, right, wrong):
  for answer in right:
    score = judge(verdicts.literal, {"value": reference}, answer)
    assert score.value == 1, answer
  for answer in wrong:
    score = judge(verdicts.literal, {"value": reference}, answer)
    assert score.value == 0, answer


@pytest.mark.parametrize("text,reason", [
    ("__import__('os').system('x')", "not a literal"), ("9**9**9", "not a lit"),
    ("[" * 60 + "]" * 60, "too deep"), ("9" * 2000, "too long"),
    ("-" * 5000 + "1", "not a literal"), ("1" + "+1" * 9000, "not a literal"),
    ("f'{1}'", "not a literal"), ("lambda: 1", "not a literal"),
    ("{[]}", "not a literal"), ("a" * LONG, "too long"), ("0xFF", "literal"),
    ("\0", "not a literal")])
def test_what_is_not_a_literal(text, reason):
  with pytest.raises(ValueError, match=reason):
    literals.parse(text)


GAME = {"numbers": [4, 7, 8, 8], "target": 24}


def test_game24():
  for answer in ("(7 - 8 / 8) * 4", "4*(7-8/8) = 24", "Answer: (7-8/8)*4 = 24",
                 "\\boxed{4 \\times \\left(7 - \\frac{8}{8}\\right)}",
                 "(7 − 8 ÷ 8) × 4", "$$(7 - 8 / 8) \\cdot 4 = 24$$",
                 "`(-8/8 + 7) * 4`", "**(7 - 8/8) * 4**"):
    score = judge(verdicts.game24, GAME, answer)
    assert score.value == 1, (answer, score)
  for answer, reason in (
      ("(7 - 8 / 8) * 4 = 25", "wrong value"), ("7 + 8 + 8 + 4", "wrong value"),
      ("4 * 7 - 4", "wrong numbers"), ("24", "wrong numbers"),
      ("(7 - 8 / 8) * 4 * 1", "wrong numbers"), ("", "no answer"),
      ("88 - 74 + 10", "wrong numbers"), ("8 / (8 - 8)", "division"),
      ("(7 - 8 / 8) * 4 = 6 * 4 = 24", "wrong value"),
      ("4 ** 7 - 8 - 8", "unexpected"), ("4! * 7 / 7 + 8 - 8", "unexpected"),
      ("(7 - 8 / 8)(4)", "unexpected"), ("4 * -7 + 8 + 8", "unexpected"),
      ("(7.0 - 8 / 8) * 4", "unexpected"), ("24 = (7 - 8 / 8) * 4", "wrong"),
      ("__import__('os')", "unexpected"), ("9" * 100, "digits"),
      ("\\boxed{4*(7-8/8)} \\boxed{8*(7-4)}", "two answers"),
      ("(" * 140 + "24", "bracket")):
    score = judge(verdicts.game24, GAME, answer)
    assert score.value == 0 and reason in score.reason, (answer, score)


def test_game24_is_exact():
  hard = {"numbers": [3, 3, 8, 8], "target": 24}
  assert judge(verdicts.game24, hard, "8 / (3 - 8 / 3)").value == 1
  near = {"numbers": [3, 3, 8, 8], "target": 23}
  assert judge(verdicts.game24, near, "8 / (3 - 8 / 3)").value == 0


@pytest.mark.parametrize("answer,arguments", [
    ("f([1, 2], 3)", [[1, 2], 3]), ("[1, 2], 3", [[1, 2], 3]),
    ("The answer is `f((1, 2))`.", [(1, 2)]), ("(1, 2)", [(1, 2)]),
    ("f(1, 2,)", [1, 2]),
    ("f()", []), ("'f(x)'", ["f(x)"]), ("```python\nf(1)\n```", [1]),
    ("\\boxed{f(\\{1: 2\\})}", [{1: 2}])])
def test_program_inputs_are_read(monkeypatch, answer, arguments):
  def call(program, function, given):
    assert (program, function, given) == ("def f: ...", "f", arguments)
    return "ok", 7
  solutions = verdicts.solutions
  monkeypatch.setattr(solutions, "call", call)
  monkeypatch.setattr(solutions, "same", lambda got, expected: got == expected)
  reference = {"program": "def f: ...", "function": "f", "output": "7"}
  assert judge(verdicts.program_input, reference, answer).value == 1
  reference["output"] = "8"
  assert judge(verdicts.program_input, reference, answer).value == 0


@pytest.mark.parametrize("answer", [
    "", "f(x)", "f(open('/etc/passwd'))", "f(*[1])", "f(a=1)", "f(1) or f(2)",
    "g(1)", "f(1); f(2)", "lambda: 7", "f(1)\nf(2) #"])
def test_program_inputs_that_are_not_run(monkeypatch, answer):
  monkeypatch.setattr(
      verdicts.solutions, "call", lambda *_: pytest.fail("it ran"))
  reference = {"program": "def f: ...", "function": "f", "output": "7"}
  assert judge(verdicts.program_input, reference, answer).value == 0


RULES = [
    (verdicts.exact, "yes"), (verdicts.unordered, ["a", "b"]),
    (verdicts.grid, ZEBRA),
    (verdicts.grid, KNIGHTS), (verdicts.literal, {"value": "[1, 2]"}),
    (verdicts.game24, GAME)]


@pytest.mark.parametrize("rule,reference", RULES)
def test_bad_references_are_named(rule, reference):
  for bad in (None, "" if isinstance(reference, str) else "x", 5):
    with pytest.raises(ValueError, match="reference"):
      judge(rule, bad, "x")


@pytest.mark.parametrize("rule,reference", RULES)
@pytest.mark.parametrize("piece", [
    "\\boxed{", "}", "{", "(", "[", '{"a":', "the answer is ", "|", "a|\n", "9",
    "- x\n", "```", "\\text{", "\\", "'", "x = ", "Zoey is a ", "and ", " ",
    "\n", "答案是", "no\n", ": ", "Zoey: a\n", "\\boxed{a}", "+1", "* * "])
def test_long_answers_take_no_time(rule, reference, piece):
  began = time.process_time()
  score = judge(rule, reference, piece * (LONG // len(piece)))
  assert time.process_time() - began < SECONDS
  assert score.value == 0


@pytest.mark.parametrize("rule,reference", RULES)
def test_junk_never_scores_and_never_raises(rule, reference):
  pieces = ["\\boxed{", "}", "{", "[", "]", "(", ")", ",", ":", "=", '"', "'",
            "|", "\n", " ", "7", "8", "-", "+", "*", "/", "x", "Zoey", "knight",
            "House 1", "color", "red", "```", "answer is", "True", "\\frac",
            "\x00", "\ud83d", "é", "和", "set()", "**"]
  generator = random.Random(0)
  for _ in range(2000):
    text = "".join(generator.choices(pieces, k=generator.randrange(25)))
    score = judge(rule, reference, text)
    assert 0 <= score.value < 1 and score.valid, text
