"""References are put in order, or refused, when data are read."""

import pytest

from r1jax.data.sources.builders import references
from r1jax.rewards import rules
from r1jax.rewards.programs import sandbox, solutions

STDIN = {"kind": "stdin", "inputs": ["1"], "outputs": ["2"]}


@pytest.mark.parametrize("verifier,reference,read", [
    ("math", 42, "42"), ("math", 0.5, "0.5"), ("math", "\\boxed{5}", "5"),
    ("math", "$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"), ("exact", 7, "7"),
    ("choice", "b", {"answer": "B", "options": {}}),
    ("choice", {"answer": "(b)", "options": {"a": "x", "b": "y"}},
     {"answer": "B", "options": {"A": "x", "B": "y"}}),
    ("set", [1, "two"], ["1", "two"]), ("", None, None),
    ("code", STDIN | {"packages": ["numpy"], "compare": "floats"},
     STDIN | {"packages": ["numpy"], "compare": "floats"}),
    ("a_rule_of_my_own", {"any": 1}, {"any": 1})])
def test_put_in_order(verifier, reference, read):
  assert references.checked(verifier, reference) == read


@pytest.mark.parametrize("verifier,reference,message", [
    ("math", "", "not empty"), ("math", None, "None"), ("math", True, "True"),
    ("math", "\\boxed{ }", "in its box"), ("mth", "5", "'math' meant"),
    ("choise", "B", "'choice' meant"), ("choice", "Z", "no letter"),
    ("choice", {"answer": "C", "options": {"A": "x", "B": "y"}}, "not among"),
    ("set", [], "a list"), ("grid", {"a": "b"}, "column"),
    ("code", {"kind": "stdin"}, "'inputs'"), ("code", {"kind": "x"}, "kind"),
    ("code", STDIN | {"packages": ["torch"]}, "torch.*numpy"),
    ("code", STDIN | {"packages": "numpy"}, "numpy"),
    ("code", STDIN | {"compare": "words"}, "words.*tokens"),
    ("literal", {"value": 5}, "'value'"), ("game24", {"numbers": [1]}, "targ")])
def test_refused(verifier, reference, message):
  with pytest.raises(ValueError, match=message):
    references.checked(verifier, reference)


def test_what_is_known_here_is_what_the_rules_know():
  assert {*references.VERIFIERS} == {*rules.VERIFIERS}
  assert references.COMPARISONS == solutions.COMPARISONS
  assert references.PACKAGES == sandbox.PACKAGES
