import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoint import export, trees

PARAMS = {
    "embed": {"w": jnp.linspace(-1.0, 1.0, 21).reshape(7, 3)},
    "blocks": [{"norm": jnp.ones(3)}, {"norm": jnp.full(3, 2.0)}],
    "head": jnp.full((3, 7), 1 / 3),
}


def like():
  return jax.eval_shape(lambda: PARAMS)


def test_float32_is_exact_and_names_are_paths(tmp_path):
  path = tmp_path / "base.safetensors"
  export.save_params(path, PARAMS, {"model": {"d_model": 3}, "seed": 0})
  got = export.load_params(path, like())
  jax.tree.map(np.testing.assert_array_equal, got, PARAMS)
  assert export.load_metadata(path) == {"model": {"d_model": 3}, "seed": 0}
  assert json.loads((tmp_path / "base.json").read_text())["seed"] == 0
  assert list(trees.flatten(PARAMS)) == [
      "blocks.0.norm", "blocks.1.norm", "embed.w", "head"]


def test_bfloat16_halves_the_file_and_rounds(tmp_path):
  wide = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
  for dtype in ("float32", "bfloat16"):
    export.save_params(tmp_path / f"{dtype}.safetensors", wide, {}, dtype=dtype)
  sizes = [(tmp_path / f"{d}.safetensors").stat().st_size
           for d in ("float32", "bfloat16")]
  assert sizes[0] - sizes[1] > 0.45 * sizes[0]
  got = export.load_params(tmp_path / "bfloat16.safetensors", wide)
  assert got["w"].dtype == jnp.float32
  rounded = wide["w"].astype(jnp.bfloat16).astype(jnp.float32)
  np.testing.assert_array_equal(got["w"], rounded)
  assert np.any(got["w"] != wide["w"])


def test_placed_on_the_shardings_of_like(tmp_path):
  if jax.device_count() < 8:
    pytest.skip("needs 8 (simulated) devices")
  mesh = jax.make_mesh((8,), ("data",),
                       axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.NamedSharding(mesh, jax.P("data"))
  path = tmp_path / "p.safetensors"
  export.save_params(path, {"w": jnp.arange(16.0)}, {})
  target = {"w": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=sharding)}
  got = export.load_params(path, target)
  assert got["w"].sharding == sharding
  np.testing.assert_array_equal(got["w"], np.arange(16.0))


def test_what_does_not_fit_is_listed(tmp_path):
  path = tmp_path / "p.safetensors"
  export.save_params(path, PARAMS, {})
  other = like()
  del other["embed"]
  other["more"] = jax.ShapeDtypeStruct((2,), jnp.float32)
  other["head"] = jax.ShapeDtypeStruct((3, 8), jnp.float32)
  with pytest.raises(ValueError) as caught:
    export.load_params(path, other)
  message = str(caught.value)
  assert "missing: more (2,)" in message
  assert "superfluous: embed.w (7, 3)" in message
  assert "different: head is (3, 7), wanted (3, 8)" in message
  assert str(path) in message


@pytest.mark.parametrize("kept", [5, 60, -4])
def test_a_truncated_file_is_named(tmp_path, kept):
  path = tmp_path / "p.safetensors"
  export.save_params(path, PARAMS, {})
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(ValueError, match=f"{path} is truncated"):
    export.load_params(path, like())


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"model": 3}'])
def test_metadata_of_something_else(tmp_path, text):
  (tmp_path / "x.json").write_text(text)
  with pytest.raises(ValueError, match="x.json describes no model; take the"):
    export.load_metadata(tmp_path / "x.safetensors")


def test_bad_arguments(tmp_path):
  path = tmp_path / "p.safetensors"
  with pytest.raises(ValueError, match="does not exist"):
    export.load_params(path, like())
  with pytest.raises(ValueError, match="does not exist"):
    export.load_metadata(path)
  with pytest.raises(ValueError, match="dtype='int8'"):
    export.save_params(path, PARAMS, {}, dtype="int8")
  with pytest.raises(ValueError, match="must end in .safetensors"):
    export.save_params(tmp_path / "p.npz", PARAMS, {})
  with pytest.raises(ValueError, match="only floats"):
    export.save_params(path, {"i": jnp.int32(1)}, {})
  with pytest.raises(ValueError, match="two leaves are named 'a.b'"):
    export.save_params(path, {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)}, {})
  assert not path.exists()
