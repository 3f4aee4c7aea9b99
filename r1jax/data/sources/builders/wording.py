"""The wording of prompts: every line that is added to a data set's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_OPTIONS = 10  # the verifier `choice` knows the letters A to J
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

CHOICE = "Answer with the letter of the right option."
CHOICE_ZH = "请用正确选项的字母作答。"
REFERS = "上文中的“{pronoun}”指的是“{name}”吗？"
SPANS = (
    "End with a line of the form `Answer: ...`. Where several things are asked"
    " for, separate them there by ` | `.")
CONTEXT = "Use these articles:"
YES_NO = "Answer yes or no."
PROGRAM = (
    "Write a Python program that reads from standard input and writes to"
    " standard output. Give it in one fenced block of Python code.")
COMPLETE = (
    "Complete the Python function `{name}` below. Give the whole function in"
    " one fenced block of Python code.")
FUNCTION = (
    "Name the function `{name}`. It must pass tests such as this one:")
ONE_BLOCK = "Give the program in one fenced block of Python code."
SIGNATURE = (
    "Write it as a Python function `{name}`, not as a method, with the"
    " parameters in this order:")
REPAIR = (
    "The Python function `{name}` below has a bug. Repair it, and give the"
    " whole repaired program in one fenced block of Python code.")
OUTPUT = (
    "What does this Python program return for `{call}`? Answer with the value"
    " as a Python literal.")
INPUT = (
    "Find an input for this Python program such that `{name}` returns the"
    " value below. Answer with one call of `{name}` with literal arguments.")
RETURNED = "Value returned: `{value}`"
GAME24 = (
    "Use the numbers {numbers}, each exactly once, with +, -, *, / and"
    " parentheses to make {target}. Answer with one expression.")
WORDS = "Answer with the words in order, separated by single spaces."
BRACKETS = "Answer with the closing brackets only, separated by single spaces."
TRUTH = "Answer True or False."
VALIDITY = "Answer valid or invalid."
NUMBER = "Answer with a number."


def joined(*parts: str) -> str:
  """The parts as paragraphs, without blank ones."""
  return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def fenced(source: str) -> str:
  """Python source as a fenced block."""
  return f"```python\n{source.strip(chr(10))}\n```"


def options(texts: Sequence[str]) -> dict[str, str]:
  """{letter: text} of options, from A on."""
  return dict(zip(LETTERS, texts))


def choice(question: str, by_letter: Mapping[str, str],
           what: str = CHOICE) -> str:
  """A question, its options, one `A) text` per line, and an instruction."""
  lines = "\n".join(f"{letter}) {text}" for letter, text in by_letter.items())
  return joined(question, lines, what)
