"""Checkpoints of transformers, imported and exported, give its numbers.

Float32, eager attention, CPU. Every configuration compares logits, chosen
experts, decoding, generation, gradients and the exported checkpoint.
"""

import types

import jax
import numpy as np
import pytest

from r1jax.checkpoint import hf_config, hf_io
from tests.parity import configs, hf, ours
from tests.parity.ours import LOGITS, TOKENS, gap

pytestmark = pytest.mark.torch

GRADIENTS = 1e-4  # of the parameter's largest gradient
PROMPT, NEW = 12, 64


@pytest.fixture(scope="module", params=configs.parameters())
def case(request, tmp_path_factory):
  name = request.param
  family, fields = configs.get(name)
  theirs, folder = hf.make(family, fields), tmp_path_factory.mktemp(
      name.replace(":", "-"))
  theirs.save_pretrained(folder)
  hf.rename(folder, family)
  cfg, params, bias = ours.imported(folder)
  logits, experts = hf.logits_and_experts(theirs, TOKENS)
  program = ours.with_gradients(cfg)
  out = jax.device_get(program(params, bias, TOKENS))
  return types.SimpleNamespace(
      name=name, family=family, theirs=theirs, cfg=cfg, params=params,
      bias=bias, logits=logits, experts=experts, program=program, out=out)


def test_logits_and_experts(case):
  assert gap(case.out[0], case.logits) < LOGITS
  if case.experts is None:
    assert case.out[1] is None
  else:
    assert np.sort(case.out[1], -1).tolist() == case.experts.tolist()


def test_export(case, tmp_path):
  fields = hf_config.to_hf(case.cfg, case.family, bos_id=1, eos_ids=[2],
                           dtype="float32")
  hf_io.save(tmp_path, case.cfg, case.params, case.bias,
             dtype="float32", fields=fields)
  hf.rename(tmp_path, hf.NATIVE.get(case.family, case.family))
  np.testing.assert_array_equal(
      hf.logits(hf.load(tmp_path), TOKENS), case.logits)


def test_prefill_and_decode(case):
  found = ours.stepwise(case.cfg, case.params, case.bias, TOKENS, PROMPT)
  assert gap(found, case.logits[:, PROMPT - 1:]) < LOGITS


def test_greedy_tokens(case):
  prompts = TOKENS[:, :PROMPT]
  found = ours.generate(case.cfg, case.params, case.bias, prompts, NEW)
  expected = hf.generate(case.theirs, prompts, NEW)
  assert expected.shape == (2, NEW)
  assert found.tolist() == expected.tolist()


def test_gradients(case):
  of_params, of_bias = case.out[2]
  found = ours.by_name(case.cfg, of_params)
  expected = hf.gradients(case.theirs, TOKENS)
  assert set(found) == set(expected)
  wrong = {}
  for name, reference in expected.items():
    assert found[name].shape == reference.shape
    largest = np.abs(reference).max()
    if np.abs(found[name] - reference).max() > GRADIENTS * largest:
      wrong[name] = gap(found[name], reference)
  assert not wrong
  assert not np.any(of_bias)


@pytest.mark.parametrize("case", configs.SENSITIVE, indirect=True)
def test_case_sees_each_parameter(case):
  """One per cent on every other value of any of them shows."""
  def change(x):
    return x * (1 + 0.01 * (np.arange(x.size) % 2)).reshape(x.shape)

  for path, _ in jax.tree_util.tree_leaves_with_path(case.params):
    changed = jax.tree_util.tree_map_with_path(
        lambda p, x, path=path: np.float32(change(x)) if p == path else x,
        case.params)
    logits = case.program(changed, case.bias, TOKENS)[0]
    assert gap(logits, case.logits) > 10 * LOGITS, path
  if case.family == "deepseek_v3":
    _, experts, _ = case.program(case.params, 0 * case.bias, TOKENS)
    assert (np.sort(experts, -1) != case.experts).any((0, 1, 3)).all()
