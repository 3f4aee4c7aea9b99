"""Configs to JSON and back."""

import dataclasses
import json

import pytest

from r1jax.core import config


@dataclasses.dataclass(frozen=True)
class Inner:
  width: int = 3
  sizes: tuple[int, ...] = (5, 7)


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str
  rate: float = 0.5
  flag: bool = False
  top_p: float | None = None
  inner: Inner = Inner()
  maybe: Inner | None = None
  stack: tuple[Inner, ...] = ()
  pair: tuple[int, str] = (1, "a")


FULL = Outer(
    name="é", rate=2.0, flag=True, top_p=0.9, inner=Inner(11, ()),
    maybe=Inner(13), stack=(Inner(17), Inner(19, (1,))), pair=(2, "b"))


@pytest.mark.parametrize("value", [Outer(name="x"), FULL])
def test_round_trip_through_json(value):
  text = json.dumps(config.to_dict(value))
  assert config.from_dict(Outer, json.loads(text)) == value


def test_int_in_json_is_a_float_where_one_is_declared():
  rate = config.from_dict(Outer, {"name": "x", "rate": 1}).rate
  assert rate == 1.0 and isinstance(rate, float)


@pytest.mark.parametrize("values,message", [
    ({"name": "x", "nam": 1}, "Outer has no field nam; it has flag, inner"),
    ({"name": "x", "inner": {"depth": 1}}, "Inner has no field depth"),
    ({"rate": 1.0}, "Outer needs name"),
    ({"name": 3}, "Outer.name=3 should be of type str"),
    ({"name": "x", "rate": "fast"}, "Outer.rate='fast'"),
    ({"name": "x", "flag": 1}, "Outer.flag=1"),
    ({"name": "x", "top_p": "0.9"}, "Outer.top_p='0.9'"),
    ({"name": "x", "inner": {"width": True}}, "Inner.width=True"),
    ({"name": "x", "inner": {"width": 3.5}}, "Inner.width=3.5"),
    ({"name": "x", "inner": {"sizes": [1, "2"]}}, "Inner.sizes='2'"),
    ({"name": "x", "pair": [1]}, "should have 2 items"),
    ({"name": None}, "Outer.name=None"),
])
def test_strict(values, message):
  with pytest.raises(ValueError, match=message):
    config.from_dict(Outer, values)


def test_difference_lists_every_leaf():
  new = dataclasses.replace(
      FULL, rate=3.0, inner=dataclasses.replace(FULL.inner, sizes=(2,)))
  lines = config.difference(config.to_dict(FULL), config.to_dict(new))
  assert lines == ["inner.sizes: () -> (2,)", "rate: 2.0 -> 3.0"]


def test_json_lists_do_not_differ_from_tuples():
  old = config.to_dict(Inner())
  assert not config.difference(json.loads(json.dumps(old)), old)
  assert config.difference({"a": 1}, {"b": 2}) == [
      "a: 1 -> None", "b: None -> 2"]


def test_check():
  config.check(True, "fine")
  with pytest.raises(ValueError, match="width=0"):
    config.check(False, "width=0")
