"""Where a run's first parameters come from: `--init=KIND:WHAT`."""

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

# Setting of a run: the fingerprint of what it adapts, of rounded values.
ROUNDED = "parameters_bfloat16"

ASSETS = epath.resource_path("r1jax") / "assets"
TOKENIZER = ASSETS / "arith" / "tokenizer.model"
WORLD_TOKENIZER = ASSETS / "world" / "tokenizer.model"
# What ships with the package, by the name behind `base:`.
BASES = {
    "": ASSETS / "arith" / "base.safetensors",
    "world": ASSETS / "world" / "base.safetensors",
    "student-qwen": ASSETS / "world" / "student-qwen.safetensors",
    "student-llama": ASSETS / "world" / "student-llama.safetensors"}


class Weights(NamedTuple):
  """A model and its values."""

  model: Model
  params: Any
  router_bias_LE: jax.Array


class Handover:
  """First parameters on their way to the stage that trains them.

  Training needs their memory: whoever takes them makes them its own, and their
  arrays are deleted or changed. Who needs them afterwards hands over a copy.
  """

  def __init__(self, weights: Weights):
    self._weights: Weights | None = weights

  @classmethod
  def copied(cls, weights: Weights) -> Handover:
    """Of a copy: for callers who go on using theirs."""
    params, bias_LE = jax.tree.map(
        jnp.copy, (weights.params, weights.router_bias_LE))
    return cls(Weights(weights.model, params, bias_LE))

  @property
  def model(self) -> Model:
    """The model; it can be asked for until the weights are taken."""
    return self._taken().model

  def take(self) -> Weights:
    """The weights; they can be taken once.

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
  """A model from `init`.

  Args:
    init: `base`, the embedded base, or `base:world` and others of `BASES`;
      `file:PATH.safetensors`, what `experiments/pretrain.py --export` wrote;
      `orbax:DIR`, the workdir of a run, its newest checkpoint, or
      `orbax:DIR@STEP`, `orbax:DIR@best` (an adapter beside the run's own init,
      as `lora.join` makes it; `lora.dense` makes arrays of it); `hf:DIR`, a
      folder of a Hugging Face model; `peft:DIR`, an adapter of the peft
      package beside the model that it names; `random:PRESET`.
    compute: how it is computed.
    key: of random parameters.
    mesh: where the parameters are placed; None for the default device.
    computing: whether it is not to be trained: matrices come in the dtype that
      it computes in, which is all that computing takes of them, and no larger
      copy is ever made.
    report: of the progress of `hf:DIR`, see `hf_io.load`.

  Raises:
    ValueError: another `init`, or a source that is missing or damaged.
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
      " other bases that come along are"
      f" {', '.join(f'base:{name}' for name in BASES if name)}")


def with_tokenizer(init: str, compute: Compute | None = None, *, seed: int = 0,
                   mesh: jax.sharding.Mesh | None = None,
                   tokenizer: str | os.PathLike = "", computing: bool = False,
                   ) -> tuple[Weights, Tokenizer]:
  """A model and a tokenizer that fits it.

  Args:
    init, mesh, computing: see `load`.
    compute: how it is computed; by default in float32.
    seed: of random parameters.
    tokenizer: a folder with tokenizer.json, or a SentencePiece model; by
      default the one that belongs to `init`.

  Raises:
    ValueError: one of them is missing or damaged, or the tokenizer has more
      ids than the model.
  """
  kind, _, what = init.partition(":")
  if kind == "hf" and what:
    hf_source.folder(what)  # says more than a tokenizer that is missing
  loaded = hf_tokenizer.load(tokenizer or tokenizer_of(init))
  policy = load(init, compute or Compute(), jax.random.key(seed), mesh,
                computing=computing)
  tokenizer_lib.check_fits(loaded, policy.model.cfg.vocab_size)
  return policy, loaded


def tokenizer_of(init: str) -> epath.Path:
  """Where the tokenizer lies that belongs to the parameters of `init`.

  That is the Hugging Face folder itself, the copy that a run keeps,
  tokenizer.model beside a file of parameters, and otherwise the embedded one.
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
  """The same in the compute dtype, of a model that is not trained.

  Whoever drops `weights` then has one copy.
  """
  if weights.model.casts_nothing(weights.params):
    return weights
  with step.on_mesh(mesh):
    return weights._replace(params=jax.jit(weights.model.cast)(weights.params))


def base_of_adapter(folder: str | os.PathLike) -> str:
  """The `init` of the model that an adapter of the peft package adapts.

  Raises:
    ValueError: it names none, or the folder is no adapter's.
  """
  base = peft.settings(folder).get("base_model_name_or_path") or ""
  check(isinstance(base, str) and bool(base), f"{folder}/{peft.CONFIG} names no"
        " model that the adapter adapts; write its folder, or orbax:WORKDIR, as"
        " base_model_name_or_path")
  kinds = "base", "file", "orbax", "random"
  return base if base.partition(":")[0] in kinds else f"hf:{base}"


def named_base(init: str) -> str:
  """How an adapter names the model that it adapts: what `init` stands for.

  A folder in Hugging Face's format by its path, also behind an import of it,
  which is what the peft package looks for; anything else as `load` takes it.
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
  """The model of `init`, as `load` takes it, without its parameters.

  Raises:
    ValueError: as `load`, of what can be seen without them.
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
  """Writes what `file:PATH` reads; the router bias stays exact, in the JSON.

  Every process calls it.

  Args:
    path: ends in .safetensors.
    cfg: of the model.
    params: its parameters; adapters in them are summed up.
    router_bias_LE: its router bias.
    made_by: how it was made, for the reader of the JSON.
    dtype: of the stored parameters.
  """
  metadata = {"model": config_lib.to_dict(cfg), "made_by": made_by or {},
              "router_bias": processes.whole(router_bias_LE).tolist()}
  export.save_params(path, lora.dense(params), metadata, dtype=dtype)


def placed(model: Model, mesh: jax.sharding.Mesh | None) -> Any:
  """Sharding of every parameter; None without a mesh."""
  return mesh and rules.param_shardings(
      model.param_axes(), jax.eval_shape(model.init, jax.random.key(0)), mesh)


def _like(shapes, placed):
  """The shapes, with shardings if there are any."""
  if placed is None:
    return shapes
  return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding), shapes, placed)


def _from_file(path, compute, mesh, computing):
  metadata = export.load_metadata(path)
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
  try:
    fields = io.read_json(path)
  except ValueError as error:  # not UTF-8, or not JSON
    raise ValueError(f"{error}{hf_source.pointer_hint(path)}") from error
  cfg = hf_config.from_hf(fields, _say)
  held = hf_io.without_absent_mtp(folder, cfg)
  if held.n_mtp != cfg.n_mtp:
    _say(f"{folder}: config.json names a layer of multi-token prediction, of"
         " which there are no weights; loaded without it")
  return held


@functools.cache
def _say(text: str) -> None:
  """Once: a folder is read several times."""
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
  """Raises ValueError unless `base` is what the run's adapter was trained on.

  Args:
    base: loaded from the run's init, in any dtypes.
    settings: of the run; those without a fingerprint of it allow any.
    workdir: of the run, for the message.
  """
  cast = settings.get("compute", {}).get("param_dtype", "")
  same = {x.dtype.name for x in jax.tree.leaves(base.params)} == {cast}
  known = settings.get("parameters" if same else ROUNDED)
  check(not known or fingerprint(base, rounded=not same) == known,
        f"the adapter in {workdir} was trained on {settings['init']}, whose"
        " parameters are others now: what it adds to them means nothing. Bring"
        " those back, or train it anew")


def fingerprint(policy: Weights, *, rounded: bool = False) -> str:
  """Of the parameters' values, the same however they are placed.

  It is made of the least and the largest value of every array: training moves
  them, and no order of summation does.

  Args:
    policy: the parameters.
    rounded: to bfloat16, as the values of arrays that were rounded are already.
  """
  ends = jax.jit(lambda tree: jax.tree.map(
      lambda x: jnp.stack([x.min(), x.max()]).astype(jnp.float32), tree))
  digest = hashlib.sha256()
  for name, values in sorted(trees.flatten(ends(policy.params)).items()):
    ends_2 = np.asarray(processes.whole(values))
    if rounded:  # which keeps their order
      ends_2 = ends_2.astype(jnp.bfloat16).astype(np.float32)
    digest.update(name.encode() + ends_2.tobytes())
  return digest.hexdigest()[:16]


def restored(workdir: str | os.PathLike, compute: Compute,
             mesh: jax.sharding.Mesh | None = None, computing: bool = False
             ) -> tuple[Weights, LoraConfig, dict[str, Any]]:
  """What a checkpoint of a run holds, and the run's settings.

  It is the newest, or that of WORKDIR@STEP or WORKDIR@best.

  The parameters are those that were trained: an adapter if its rank > 0. They
  are placed on `mesh`, or on the default device; `computing` as for `load`.

  Raises:
    ValueError: `workdir` is not a run's, is that of a reward model, or has no
      checkpoint.
  """
  settings = _policy_settings(workdir)
  model = build(
      config_lib.from_dict(ModelConfig, settings["model"]), compute)
  return *checkpoint(workdir, settings, model, mesh, computing), settings


def _policy_settings(workdir):
  settings = inits.settings_of(workdir)
  if settings.get("head"):
    raise ValueError(f"{workdir} holds a reward model, which scores texts and"
                     " writes none: it is for --rewards.helpful or .safety; as"
                     " --init give the run of a policy")
  return settings


def checkpoint(workdir: str | os.PathLike, settings: dict[str, Any],
               model: Model, mesh: jax.sharding.Mesh | None,
               computing: bool = False) -> tuple[Weights, LoraConfig]:
  """`restored` of a model that is made already, a reward model too."""
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
