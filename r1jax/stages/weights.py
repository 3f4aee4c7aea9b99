"""Loads a run's first parameters: `--init=KIND:WHAT`."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from r1jax.checkpoint import (
  export,
  hf_config,
  hf_io,
  hf_source,
  inits,
  peft,
  trees,
)
from r1jax.checkpoint.manager import Manager
from r1jax.core import config as config_lib
from r1jax.core import io
from r1jax.core.config import check
from r1jax.data.text import hf_tokenizer
from r1jax.data.text import tokenizer as tokenizer_lib
from r1jax.data.text.tokenizer import Tokenizer
from r1jax.models import presets
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.models.model import Model, build, shapes
from r1jax.report import workdir as workdir_lib
from r1jax.sharding import processes, rules
from r1jax.training import lora, step
from r1jax.training.lora import LoraConfig

# Setting of a LoRA run: fingerprint of its base, rounded to bfloat16.
ROUNDED = "parameters_bfloat16"

ASSETS = epath.resource_path("r1jax") / "assets"
TOKENIZER = ASSETS / "arith" / "tokenizer.model"
WORLD_TOKENIZER = ASSETS / "world" / "tokenizer.model"
# Models in the package, by the name after `base:`.
BASES = {
    "": ASSETS / "arith" / "base.safetensors",
    "world": ASSETS / "world" / "base.safetensors",
    "student-qwen": ASSETS / "world" / "student-qwen.safetensors",
    "student-llama": ASSETS / "world" / "student-llama.safetensors"}


class Weights(NamedTuple):
  """A model with its parameters and router bias."""

  model: Model
  params: Any
  router_bias_LE: jax.Array


class Handover:
  """Ownership of first parameters, passed to the stage that trains them.

  Training reuses their memory: once taken, their arrays may be deleted or
  changed. A caller that still needs them passes a copy.
  """

  def __init__(self, weights: Weights):
    self._weights: Weights | None = weights

  @classmethod
  def copied(cls, weights: Weights) -> Handover:
    """Hands over a copy, so that the caller can go on using its own."""
    params, bias_LE = jax.tree.map(
        jnp.copy, (weights.params, weights.router_bias_LE))
    return cls(Weights(weights.model, params, bias_LE))

  @property
  def model(self) -> Model:
    """The model; available until the weights are taken."""
    return self._taken().model

  def take(self) -> Weights:
    """Returns the weights; works once.

    Raises:
      ValueError: they were taken before.
    """
    weights, self._weights = self._taken(), None
    return weights

  def _taken(self) -> Weights:
    if self._weights is None:
      raise ValueError("these weights were handed over to another run, which"
                       " has changed them; load them again")
    return self._weights


def load(init: str, compute: Compute, key: jax.Array,
         mesh: jax.sharding.Mesh | None = None, *, computing: bool = False,
         report: hf_io.Report | None = None) -> Weights:
  """Loads a model from `init`.

  Args:
    init: one of
      `base`: the embedded base; `base:world` and others of `BASES`;
      `file:PATH.safetensors`: written by `experiments/pretrain.py --export`;
      `orbax:DIR`: the newest checkpoint of the run in a workdir;
      `orbax:DIR@STEP`, `orbax:DIR@best`: another checkpoint. The adapter of a
        LoRA run is joined to the run's own init, as `lora.join` does
        (`lora.dense` makes plain arrays of that);
      `hf:DIR`: the folder of a Hugging Face model;
      `peft:DIR`: an adapter of the peft package, joined to the model that it
        names;
      `random:PRESET`: random parameters.
    compute: how the model is computed.
    key: of random parameters.
    mesh: the mesh to place parameters on; None for the default device.
    computing: whether the model is not trained: matrices are then loaded in the
      compute dtype, without a larger copy.
    report: shows the progress of `hf:DIR`, see `hf_io.load`.

  Raises:
    ValueError: `init` has another form, or its source is missing or damaged.
  """
  kind, _, what = init.partition(":")
  if kind == "base" and what in BASES:
    return _from_file(BASES[what], compute, mesh, computing)
  if kind == "file" and what:
    return _from_file(what, compute, mesh, computing)
  if kind == "orbax" and what:
    return _from_run(what, compute, mesh, computing)
  if kind == "hf" and what:
    return _from_hf(what, compute, mesh, computing, report)
  if kind == "peft" and what:
    base = load(base_of_adapter(what), compute, key, mesh,
                computing=computing, report=report)
    adapter = peft.load(what, base.model.cfg)
    place = mesh and jax.NamedSharding(mesh, jax.P())
    return base._replace(params=lora.join(
        base.params, jax.device_put(adapter.params, place), adapter.scale))
  if kind == "random" and what:
    model = build(presets.get(what), compute)
    init = jax.jit(model.init, out_shardings=placed(model, mesh))
    return Weights(model, init(key), model.init_router_bias())
  raise _unknown(init)


def _unknown(init: str) -> ValueError:
  return ValueError(
      f"init={init!r}: give base, file:PATH.safetensors, orbax:WORKDIR"
      " (or WORKDIR@STEP, WORKDIR@best), hf:DIR, peft:DIR or random:PRESET;"
      " other models in the package are"
      f" {', '.join(f'base:{name}' for name in BASES if name)}")


def with_tokenizer(init: str, compute: Compute | None = None, *, seed: int = 0,
                   mesh: jax.sharding.Mesh | None = None,
                   tokenizer: str | os.PathLike = "", computing: bool = False,
                   ) -> tuple[Weights, Tokenizer]:
  """Loads a model and a tokenizer that fits it.

  Args:
    init, mesh, computing: see `load`.
    compute: how it is computed; by default `Compute()`.
    seed: of random parameters.
    tokenizer: a folder with tokenizer.json, or a SentencePiece model; by
      default the one of `init`.

  Raises:
    ValueError: one of them is missing or damaged, or the tokenizer has more
      ids than the model.
  """
  kind, _, what = init.partition(":")
  if kind == "hf" and what:
    hf_source.folder(what)  # a clearer error than that of a missing tokenizer
  loaded = hf_tokenizer.load(tokenizer or tokenizer_of(init))
  policy = load(init, compute or Compute(), jax.random.key(seed), mesh,
                computing=computing)
  tokenizer_lib.check_fits(loaded, policy.model.cfg.vocab_size)
  return policy, loaded


def tokenizer_of(init: str) -> epath.Path:
  """The path of the tokenizer that belongs to the parameters of `init`.

  It is the Hugging Face folder itself, the copy in a run's workdir, or
  tokenizer.model beside a file of parameters; otherwise the embedded one.
  """
  kind, _, what = init.partition(":")
  if kind == "peft" and what:
    return tokenizer_of(base_of_adapter(what))
  if kind == "hf" and what:
    return epath.Path(what)
  kept = epath.Path(workdir_lib.named(what)[0]) / tokenizer_lib.FOLDER
  if kind == "orbax" and kept.exists():
    return kept
  file = BASES.get(what) if kind == "base" else epath.Path(what)
  beside = file.parent / TOKENIZER.name if file else TOKENIZER
  return beside if kind in ("base", "file") and beside.exists() else TOKENIZER


def computing(weights: Weights, mesh: jax.sharding.Mesh | None) -> Weights:
  """The parameters in the compute dtype, for a model that is not trained.

  It is another copy, unless the dtype is the same.
  """
  if weights.model.casts_nothing(weights.params):
    return weights
  with step.on_mesh(mesh):
    return weights._replace(params=jax.jit(weights.model.cast)(weights.params))


def base_of_adapter(folder: str | os.PathLike) -> str:
  """The `init` of the model that a peft adapter belongs to.

  Raises:
    ValueError: the adapter names no model, or the folder has no adapter.
  """
  base = peft.settings(folder).get("base_model_name_or_path") or ""
  check(isinstance(base, str) and bool(base), f"{folder}/{peft.CONFIG} does not"
        " name the model that the adapter belongs to; write its folder, or"
        " orbax:WORKDIR, as base_model_name_or_path")
  kinds = "base", "file", "orbax", "random"
  return base if base.partition(":")[0] in kinds else f"hf:{base}"


def named_base(init: str) -> str:
  """The value of base_model_name_or_path for an adapter to the model `init`.

  The path of a Hugging Face folder, also for a run that was imported from one,
  because that is what the peft package expects; otherwise an `init` for `load`.
  """
  kind, _, what = init.partition(":")
  if kind == "hf":
    return os.path.abspath(what)
  if kind == "orbax" and not io.is_remote(what):
    path = epath.Path(what.partition("@")[0]) / "config.json"
    imported = path.exists() and inits.settings_of(path.parent).get(
        "imported_from")
    return imported or f"orbax:{os.path.abspath(what)}"
  if kind == "file" and not io.is_remote(what):
    return f"file:{os.path.abspath(what)}"
  return init


def config_of(init: str) -> ModelConfig:
  """The config of the model `init`, without loading its parameters.

  Raises:
    ValueError: as `load`, as far as it shows without the parameters.
  """
  kind, _, what = init.partition(":")
  if kind == "base" and what in BASES or kind == "file" and what:
    metadata = export.load_metadata(BASES[what] if kind == "base" else what)
    return config_lib.from_dict(ModelConfig, metadata["model"])
  if kind == "orbax" and what:
    return config_lib.from_dict(ModelConfig, _policy_settings(what)["model"])
  if kind == "hf" and what:
    return _hf_config(what)
  if kind == "peft" and what:
    return config_of(base_of_adapter(what))
  if kind == "random" and what:
    return presets.get(what)
  raise _unknown(init)


def save(path: str | os.PathLike, cfg: ModelConfig, params: Any,
         router_bias_LE: jax.Array, *, made_by: dict[str, Any] | None = None,
         dtype: str = "bfloat16") -> None:
  """Writes the file for `file:PATH`, with the exact router bias in its JSON.

  Every process must call it.

  Args:
    path: ends in .safetensors.
    cfg: the model's config.
    params: its parameters; adapters are added to their matrices.
    router_bias_LE: its router bias.
    made_by: how it was made, for readers of the JSON.
    dtype: dtype of the stored parameters.
  """
  metadata = {"model": config_lib.to_dict(cfg), "made_by": made_by or {},
              "router_bias": processes.whole(router_bias_LE).tolist()}
  export.save_params(path, lora.dense(params), metadata, dtype=dtype)


def placed(model: Model, mesh: jax.sharding.Mesh | None) -> Any:
  """The sharding of every parameter; None without a mesh."""
  return mesh and rules.param_shardings(
      model.param_axes(), jax.eval_shape(model.init, jax.random.key(0)), mesh)


def _like(shapes, placed):
  """The shapes with shardings, if there are any."""
  if placed is None:
    return shapes
  return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding), shapes, placed)


def _from_file(path, compute, mesh, computing):
  metadata = export.load_metadata(path)
  check("router_bias" in metadata, f"the JSON beside {path} has no router_bias;"
        " take the file that was written with it")
  model = build(
      config_lib.from_dict(ModelConfig, metadata["model"]), compute)
  like = _like(shapes(model, computing), placed(model, mesh))
  bias = jnp.asarray(metadata["router_bias"], jnp.float32)
  return Weights(model, export.load_params(path, like),
                 bias.reshape(model.init_router_bias().shape))


def _from_hf(folder, compute, mesh, computing, report):
  model = build(_hf_config(folder), compute)
  params, bias = hf_io.load(folder, model, placed(model, mesh),
                            computing=computing, report=report)
  return Weights(model, params, bias)


def _hf_config(folder):
  path = epath.Path(hf_source.folder(folder)) / "config.json"
  cfg = hf_config.from_hf(io.read_json(path), _say)
  held = hf_io.without_absent_mtp(folder, cfg)
  if held.n_mtp != cfg.n_mtp:
    _say(f"{folder}: config.json has a multi-token prediction layer, but its"
         " weights are missing; loaded without it")
  return held


@functools.cache
def _say(text: str) -> None:
  """Logs a warning once, although a folder is read several times."""
  logging.warning("%s", text)


def _from_run(workdir, compute, mesh, computing):
  trained, adapter, settings = restored(workdir, compute, mesh, computing)
  if not adapter.rank:
    return trained
  if not settings.get("init"):
    raise ValueError(f"{workdir}/config.json does not say which parameters the"
                     " adapter adapts (init); train it through experiments/")
  base = load(settings["init"], compute, jax.random.key(settings["seed"]), mesh,
              computing=computing)
  check_adapted(base, settings, workdir)
  return trained._replace(
      params=lora.join(base.params, trained.params, adapter.scale))


def check_adapted(base: Weights, settings: dict[str, Any],
                  workdir: str | os.PathLike) -> None:
  """Raises ValueError unless the run's adapter was trained on `base`.

  Args:
    base: loaded from the run's init, in any dtypes.
    settings: the run's settings; without a fingerprint any base passes.
    workdir: the run's folder, for the message.
  """
  cast = settings.get("compute", {}).get("param_dtype", "")
  same = {x.dtype.name for x in jax.tree.leaves(base.params)} == {cast}
  known = settings.get("parameters" if same else ROUNDED)
  check(not known or fingerprint(base, rounded=not same) == known,
        f"the adapter in {workdir} was trained on {settings['init']}, whose"
        " parameters have changed since, so that it does not fit them. Restore"
        " the old parameters, or train the adapter again")


def fingerprint(policy: Weights, *, rounded: bool = False) -> str:
  """A hash of the parameters' values, independent of their sharding.

  It hashes the minimum and the maximum of every array, which training changes
  and which do not depend on an order of summation.

  Args:
    policy: the parameters.
    rounded: whether to round the values to bfloat16, to compare with arrays
      that were rounded.
  """
  ends = jax.jit(lambda tree: jax.tree.map(
      lambda x: jnp.stack([x.min(), x.max()]).astype(jnp.float32), tree))
  digest = hashlib.sha256()
  for name, values in sorted(trees.flatten(ends(policy.params)).items()):
    ends_2 = np.asarray(processes.whole(values))
    if rounded:  # rounding is monotonic, so the ends are still the ends
      ends_2 = ends_2.astype(jnp.bfloat16).astype(np.float32)
    digest.update(name.encode() + ends_2.tobytes())
  return digest.hexdigest()[:16]


def restored(workdir: str | os.PathLike, compute: Compute,
             mesh: jax.sharding.Mesh | None = None, computing: bool = False
             ) -> tuple[Weights, LoraConfig, dict[str, Any]]:
  """A checkpoint of a run: (weights, LoRA config, the run's settings).

  It is the newest one, or that of WORKDIR@STEP or WORKDIR@best. The parameters
  are the trained ones: only the adapter if its rank is above 0.

  Args:
    workdir: the run's folder, as above.
    compute, mesh, computing: as for `load`.

  Raises:
    ValueError: `workdir` is not a run's folder, is a reward model's, or has no
      checkpoint.
  """
  settings = _policy_settings(workdir)
  model = build(
      config_lib.from_dict(ModelConfig, settings["model"]), compute)
  return *checkpoint(workdir, settings, model, mesh, computing), settings


def _policy_settings(workdir):
  settings = inits.settings_of(workdir)
  if settings.get("head"):
    raise ValueError(f"{workdir} has a reward model, which scores texts and"
                     " cannot write any: give it as --rewards.helpful or"
                     " .safety, and the run of a policy as --init")
  return settings


def checkpoint(workdir: str | os.PathLike, settings: dict[str, Any],
               model: Model, mesh: jax.sharding.Mesh | None,
               computing: bool = False) -> tuple[Weights, LoraConfig]:
  """`restored` for a given model, which may be a reward model."""
  params = shapes(model, computing)
  axes = model.param_axes()
  adapter = config_lib.from_dict(LoraConfig, settings.get("lora", {}))
  if adapter.rank:
    params = jax.eval_shape(
        lambda p: lora.init(jax.random.key(0), p, axes, adapter), params)
    axes = lora.adapter_axes(axes, adapter)
  like = {"params": params,
          "router_bias_LE": jax.eval_shape(model.init_router_bias)}
  if mesh is not None:
    like = _like(like, {
        "params": rules.param_shardings(axes, params, mesh),
        "router_bias_LE": jax.NamedSharding(mesh, jax.P())})
  folder, at = workdir_lib.named(os.fspath(workdir))
  step = processes.from_writer(
      lambda: inits.step_of(os.fspath(workdir))) if at else None
  manager = Manager(epath.Path(folder) / "checkpoints", read_only=True)
  arrays, _ = manager.restore(step, like=like, partial=True, cast=True)
  manager.close()
  return Weights(model, arrays["params"], arrays["router_bias_LE"]), adapter
