"""Prompt templates: a question in, the text that the model continues.

The completion follows the last character of the rendered text, so it begins
with a space. A template gives a form, never a hint about content.
"""

from __future__ import annotations

R1_ZERO = (
    "The User asks, the Assistant thinks it over, then answers, as in"
    " <think> thoughts </think> <answer> answer </answer>"
    " User: {question} Assistant:")

PLAIN = "Question: {question} Answer:"

TEMPLATES = {"r1-zero": R1_ZERO, "plain": PLAIN}


def render(question: str, template: str = "r1-zero") -> str:
  """`question` set into the named template.

  "r1-zero" is the form of DeepSeek-R1 (arXiv:2501.12948, Table 1) in our own,
  shorter words: a preamble, a one-line schema, the two speakers.

  Raises:
    ValueError: no template has that name; the message lists them.
  """
  if template not in TEMPLATES:
    raise ValueError(
        f"template={template!r} is unknown; choose from"
        f" {', '.join(sorted(TEMPLATES))}")
  return TEMPLATES[template].format(question=question)
