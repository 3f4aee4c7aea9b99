"""Flags from dataclasses."""

import dataclasses
import pathlib

import pytest
from absl import flags

from experiments import flagset, start

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
  """Sizes.

  Attributes:
    low, rates: bounds that
      go on.
    width: not this.
  """

  width: int = 7  # features of a row
  low: float = 0.0
  rates: tuple[float, ...] = (0.5, 0.25)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
  # Samples of each question,
  # at least two.
  group: int = 4
  top_p: float | None = None
  name: str = "base"  # who
  debug: bool = False
  sizes: tuple[int, ...] = ()
  inner: Inner = dataclasses.field(default_factory=Inner)
  rate: float = dataclasses.field(default=1.0, metadata={"help": "a rate"})

  def __post_init__(self):
    if self.group < 2:
      raise ValueError(f"group={self.group}: one has no baseline")


def parse(*args, prefix="run", default=Outer):
  values = flags.FlagValues()
  handle = flagset.define(default, prefix, values)
  values(["program", *args])
  return handle


def test_defaults_are_the_dataclass():
  assert parse().value() == Outer()


def test_each_kind_of_field_is_parsed():
  got = parse(
      "--run.group=3", "--run.top_p=0.5", "--run.name=x,y", "--run.debug",
      "--run.sizes=3,5", "--run.inner.width=11", "--run.inner.rates=",
      "--run.rate=2").value()
  assert got == Outer(
      group=3, top_p=0.5, name="x,y", debug=True, sizes=(3, 5),
      inner=Inner(width=11, rates=()), rate=2.0)


def test_empty_prefix_and_none():
  handle = parse("--top_p=none", "--nodebug", prefix="")
  assert handle.value() == Outer(top_p=None, debug=False)


PRESET = Outer(
    group=8, top_p=0.5, debug=True, sizes=(1,),
    inner=Inner(width=2, rates=(9.0,)))


def test_only_given_flags_override_a_preset():
  got = parse("--run.inner.width=7", "--run.name=base", default=PRESET).value()
  assert got == dataclasses.replace(
      PRESET, name="base", inner=Inner(width=7, rates=(9.0,)))


@dataclasses.dataclass(frozen=True)
class Holder:
  inner: Inner = dataclasses.field(default_factory=lambda: Inner(width=5))


@pytest.mark.parametrize("default", [PRESET, Outer, Holder, Holder(Inner())])
def test_help_says_what_is_taken(default):
  """Defaults of an instance, and of a class those of its inner dataclasses."""
  handle = parse(default=default)
  want = default if not isinstance(default, type) else default()
  assert handle.value() == want
  shown = {name: handle.flag_values[name].default for name in handle.declared}
  assert parse(*(f"--{name}={flagset.text(value)}"
                 for name, value in shown.items()),
               default=type(want)).value() == want


def test_what_was_changed_is_told():
  handle = parse("--run.group=9", "--run.sizes=1", "--run.inner.rates=1,2.5",
                 default=PRESET)
  handle.flag_values.set_default("run.debug", "false")
  assert handle.changed() == {"run.group": "9", "run.debug": "false",
                              "run.inner.rates": "1.0,2.5"}


def test_help_is_the_comment():
  values = parse().flag_values
  assert values["run.group"].help == "Samples of each question, at least two."
  assert values["run.name"].help == "who"
  assert values["run.inner.width"].help == "features of a row"
  assert values["run.inner.low"].help == "bounds that go on."
  assert values["run.inner.rates"].help.startswith("bounds that go on.")
  assert values["run.rate"].help == "a rate"
  assert values["run.debug"].help == "Outer.debug"


def test_flags_read_back_from_a_flagfile():
  handle = parse("--run.sizes=3,5", "--run.top_p=none", "--run.inner.rates=")
  again = parse(*handle.flag_values.flags_into_string().split())
  assert again.value() == handle.value() == Outer(
      sizes=(3, 5), inner=Inner(rates=()))


@pytest.mark.parametrize("args", [
    ["--run.group=x"], ["--run.sizes=3,x"], ["--run.unknown=1"],
    ["--run.debug=perhaps"]])
def test_a_value_that_does_not_parse_is_an_error_of_absl(args):
  with pytest.raises(flags.Error):
    parse(*args)


@pytest.mark.parametrize("arg,message", [
    ("--run.rate=nan", "nan is not a finite number"),
    ("--run.top_p=inf", "inf is not a finite number"),
    ("--run.inner.rates=1,-inf", "-inf is not a finite number"),
    (f"--run.group={10**20}", "is not an integer of 64 bits")])
def test_numbers_that_no_array_holds(arg, message):
  with pytest.raises(flags.IllegalFlagValueError, match=message):
    parse(arg)


@pytest.mark.parametrize("given,want", [
    ("--workdir=~/r", "--workdir=H/r"), ("--init=hf:~/m", "--init=hf:H/m"),
    ("--sft_data=~/a,~/b", "--sft_data=H/a,H/b"), ("--out=~", "--out=H"),
    ("--system=file:~/s", "--system=file:H/s"), ("--system=~/s", None),
    ("--question=is ~/x=~/y", None), ("--workdir=a~/b", None),
    ("--workdir=~you/b", None), ("~/x", None)])
def test_a_shell_leaves_the_home_folder_behind_an_equals_sign(
    given, want, monkeypatch):
  monkeypatch.setenv("HOME", "H")
  assert start._at_home(given) == (want or given)


def test_a_refused_value_names_its_flags():
  with pytest.raises(ValueError, match="group=1: one has no baseline"):
    parse("--run.group=1").value()
  with pytest.raises(ValueError, match="one has no baseline.*--run"):
    parse("--run.group=1", default=Outer()).value()


def test_a_required_field_must_be_given():
  @dataclasses.dataclass(frozen=True)
  class Needs:
    path: str

  with pytest.raises(ValueError, match="--run.path must be given"):
    parse(default=Needs).value()
  assert parse("--run.path=a", default=Needs).value() == Needs("a")


def test_other_types_have_no_flag():
  @dataclasses.dataclass(frozen=True)
  class Odd:
    table: dict[str, int] = dataclasses.field(default_factory=dict)

  with pytest.raises(ValueError, match="no flag for run.table"):
    parse(default=Odd)
