"""A model as pure functions of its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models import deepseek, layers, transformer
from r1jax.models.compute import Compute
from r1jax.models.config import ModelConfig
from r1jax.ops import linear, moving, rope
from r1jax.ops.shared_prompts import Shared
from r1jax.sharding import rules
from r1jax.sharding.mesh import Place

Params = Any

# Names of the stacked parameters of dense and of mixture layers.
_STACKS = ("dense_blocks", "mixture_blocks")
# Parts of a deep model's unstacked layers that a prefill on a CPU stacks.
_PARTS = 8


@flax.struct.dataclass
class Output:
  """Result of a full-sequence pass.

  Attributes:
    hidden_BTD: states after the final norm, compute dtype.
    experts_BTLA: int32 experts that the router chose in each mixture layer,
      best first (also when recorded experts were used); None if dense.
    load_LE: float32, tokens per mixture layer and expert, without padding.
    balance: (sum over layers and sequences, number of sequences) of the
      sequence-wise balance loss; zeros unless requested.
  """

  hidden_BTD: jax.Array
  experts_BTLA: jax.Array | None
  load_LE: jax.Array
  balance: tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of one architecture; holds no arrays.

  Attributes:
    cfg: the architecture.
    compute: dtypes and implementations.
    layout: how a mesh splits arrays, `train` or `decode`, see `sharding.rules`.
    paged: whether the KV cache may be laid out for a kernel, see `ops.paged`.
  """

  cfg: ModelConfig
  compute: Compute
  layout: str = "train"
  paged: bool = True

  def init(self, key: jax.Array) -> Params:
    """Random parameters, a plain nested dict of arrays."""
    return nn.meta.unbox(_boxed(self, key))

  def param_axes(self, params: Params | None = None) -> Params:
    """The tree of parameters with tuples of logical axis names as leaves.

    Args:
      params: arrays or shapes; needed if some matrices are `linear.Adapted` or
        the layers are unstacked.
    """
    boxed = jax.eval_shape(
        functools.partial(_boxed, self), jax.random.key(0))
    axes = jax.tree.map(lambda box: box.axes, boxed,
                        is_leaf=lambda x: isinstance(x, layers.Named))
    if params is None:
      return axes
    for name in _STACKS:
      if isinstance(params.get(name), tuple):
        layer = jax.tree.map(lambda names: names[1:], axes[name],
                             is_leaf=rules.is_axes)
        if "w_uk" in params[name][0]["attn"]:
          del layer["attn"]["w_ukv"]
          layer["attn"] |= deepseek.HALVES
        axes[name] = (layer,) * len(params[name])
    return jax.tree.map(
        lambda w, names: w.axes(names) if linear.is_adapted(w) else names,
        params, axes, is_leaf=linear.is_adapted)

  def cast(self, params: Params) -> Params:
    """Parameters with matrices cast to the compute dtype.

    The router, vectors and adapters keep their dtype. Computing with the result
    equals computing with `params`, because every product casts its matrix.
    """
    def leaf(path, x):
      name = jax.tree_util.keystr(path[-1:], simple=True)
      matrix = name == "embed" or name.startswith("w_")
      return linear.cast(x, self.compute.dtype) if (
          matrix and name != "w_router") else x

    return jax.tree_util.tree_map_with_path(
        leaf, params, is_leaf=linear.is_adapted)

  def casts_nothing(self, params: Params) -> bool:
    """Whether `cast` would change no dtype."""
    cast = jax.eval_shape(self.cast, params)
    return all(a.dtype == b.dtype for a, b in zip(
        jax.tree.leaves(params), jax.tree.leaves(cast), strict=True))

  def init_router_bias(self) -> jax.Array:
    """Selection bias, float32 zeros [mixture layers + MTP modules, E]."""
    cfg = self.cfg
    rows = cfg.n_mixture_layers + cfg.n_mtp if cfg.n_experts else 0
    return jnp.zeros((rows, cfg.n_experts), jnp.float32)

  @property
  def place(self) -> Place:
    """The place of the pass that is being traced, determined once per pass."""
    return Place.here(self.layout, self.paged)

  def _decoder(self, **options):
    return transformer.Decoder(self.cfg, self.compute, self.place, **options)

  def forward(self, params: Params, bias_LE: jax.Array, tokens_BT: jax.Array,
              positions_BT: jax.Array, segments_BT: jax.Array, *,
              experts_BTLA: jax.Array | None = None, balance: bool = False
              ) -> Output:
    """Full-sequence pass; attention stays within segments.

    Args:
      params: from `init`.
      bias_LE: router selection bias.
      tokens_BT: int32.
      positions_BT: int32, restarting with each segment.
      segments_BT: int32, 0 is padding.
      experts_BTLA: recorded experts to use instead of the router's choice.
      balance: whether to compute the balance loss too.
    """
    decoder = self._decoder(balance=balance)
    context = transformer.make_context(self.cfg, positions_BT, segments_BT)
    replay = None if experts_BTLA is None else jnp.moveaxis(experts_BTLA, 2, 0)
    hidden, mixture = decoder.apply(
        {"params": params}, tokens_BT, bias_LE, replay, context)
    return self._output(hidden, mixture)

  def mtp(self, params: Params, bias_LE: jax.Array, hidden_BTD: jax.Array,
          next_tokens_BT: jax.Array, positions_BT: jax.Array,
          segments_BT: jax.Array, *, balance: bool = False) -> Output:
    """Multi-token prediction (V3, section 2.2) over whole rows.

    Args:
      params, bias_LE: as for `forward`.
      hidden_BTD: from `forward`.
      next_tokens_BT: int32, the token after each position.
      positions_BT, segments_BT, balance: as for `forward`.

    Returns:
      The module's Output. Its hidden states, through `head`, predict the token
      after `next_tokens_BT`.
    """
    decoder = self._decoder(balance=balance)
    context = transformer.make_context(self.cfg, positions_BT, segments_BT)
    hidden, out = decoder.apply(
        {"params": params}, hidden_BTD, next_tokens_BT, bias_LE, context,
        method="predict")
    return self._output(hidden, jax.tree.map(lambda x: x[None], out))

  def _output(self, hidden, mixture):
    """The Output from block outputs stacked over layers."""
    zero = jnp.zeros((), jnp.float32)
    experts, load, balance = None, jnp.zeros((0, 0)), (zero, zero)
    if mixture.experts is not None:
      experts, load = jnp.moveaxis(mixture.experts, 0, 2), mixture.load_E
    if mixture.balance is not None:
      balance = jnp.sum(mixture.balance[0]), mixture.balance[1][0]
    return Output(hidden, experts, load, balance)

  def head(self, params: Params) -> jax.Array:
    """Unembedding [D, V]: logits = hidden @ head."""
    dtype = self.compute.dtype
    if "w_head" not in params:
      return rules.gather_part(
          params["embed"], ("vocab", "embed"), dtype, self.layout).T
    return rules.gather_part(
        params["w_head"], ("embed", "vocab"), dtype, self.layout)

  def prefill(self, params: Params, bias_LE: jax.Array, tokens_BP: jax.Array,
              lengths: jax.Array, *, drafts: bool = False
              ) -> tuple[jax.Array, Any, Any]:
    """Processes prompts and returns the KV cache.

    Args:
      params: stacked or unstacked, see `unstack`.
      bias_LE: router selection bias.
      tokens_BP: int32 rows of prompts, right-padded.
      lengths: int32 [B], the length of each row's prompt; or [B, K] those of
        its prompts, which follow one another, 0 for none. Prompts do not see
        each other.
      drafts: whether to add the cache of the MTP module, which `propose` needs,
        as one more layer.

    Returns:
      (hidden_BD of each row's last token; cache, a tuple over layers with P
      slots each and the batch axis leading in every leaf; experts_BPLA or
      None).
    """
    lengths_BK = lengths.reshape(len(lengths), -1)
    context = transformer.make_context(
        self.cfg, *_places(lengths_BK, tokens_BP.shape[1]))
    decoder = self._decoder()
    x_BPD = decoder.apply({"params": params}, tokens_BP, method="lookup")
    outs = []
    for block, stack, biases in self._stacks(params, bias_LE, decoder.place):
      x_BPD, more = _through(
          block, stack, biases, x_BPD, context, jnp.any(lengths_BK > 0))
      outs += more
    last_BD = jnp.take_along_axis(
        x_BPD, (jnp.sum(lengths_BK, 1) - 1)[:, None, None], axis=1)[:, 0]
    hidden_BD = decoder.apply({"params": params}, last_BD, method="finish")
    cache = tuple(out.latents for out in outs)
    if drafts:
      # The token after the prompt is not known yet: `propose` overwrites the
      # slot of the prompt's last token when it is.
      _, out = self._decoder(latents=True).apply(
          {"params": params}, decoder.apply(
              {"params": params}, x_BPD, method="finish"),
          jnp.roll(tokens_BP, -1, 1), bias_LE, context, method="predict")
      cache += (out.latents,)
    experts = [out.experts for out in outs if out.experts is not None]
    return hidden_BD, cache, jnp.stack(experts, 2) if experts else None

  def _stacks(self, params, bias_LE, place
              ) -> Iterator[tuple[transformer.Block, Any, jax.Array | None]]:
    """(block, its layers' parameters and router biases), dense ones first."""
    for mixture, name in enumerate(_STACKS):
      if name in params:
        yield (transformer.Block(self.cfg, self.compute, place, bool(mixture),
                                 latents=True), params[name],
               bias_LE[:self.cfg.n_mixture_layers] if mixture else None)

  def cache_axes(self, cache: Any) -> Any:
    """`cache` with tuples of logical axis names as leaves."""
    axes = transformer.ATTENTION[self.cfg.attention].cache_axes
    return tuple(axes(layer) for layer in cache)

  def grow(self, cache: Any, slots: int) -> Any:
    """Pads every layer's cache with zeros to `slots` slots, or cuts it.

    Pages stay whole.
    """
    grow = transformer.ATTENTION[self.cfg.attention].grow
    return tuple(grow(layer, slots) for layer in cache)

  def unstack(self, params: Params) -> Params:
    """Parameters with each stack replaced by a tuple of trees, one per layer.

    A loop of decode steps would copy each layer's parameters out of the stack.
    The up-projection of latent attention is halved, see `mla.Halves`.
    `prefill`, `decode` and `read` take both forms.
    """
    return params | {
        name: tuple(map(self.ready, _unstacked(params[name])))
        for name in _STACKS if name in params}

  def stack(self, params: Params) -> Params:
    """The inverse of `unstack`."""
    return params | {
        name: _stacked(tuple(map(self.unready, params[name])))
        for name in _STACKS if name in params}

  def ready(self, layer: Params, run: Callable[..., Any] = deepseek.call
            ) -> Params:
    """A layer's parameters as `unstack` returns them; `run` calls a function.
    """
    return layer | {"attn": deepseek.halved(
        layer["attn"], self.cfg.nope_dim, run)}

  def unready(self, layer: Params, run: Callable[..., Any] = deepseek.call
              ) -> Params:
    """The inverse of `ready`."""
    return layer | {"attn": deepseek.joined(layer["attn"], run)}

  def decode(self, params: Params, bias_LE: jax.Array, tokens_B: jax.Array,
             positions_B: jax.Array, cache: Any
             ) -> tuple[jax.Array, Any, Any]:
    """One decode step: reads one token per row and adds it to the cache.

    The token at position i takes slot i and attends to slots 0 to i. Layers are
    unrolled, so that each layer's cache is updated in place.

    Args:
      params: stacked or unstacked, see `unstack`.
      bias_LE: router selection bias.
      tokens_B: int32.
      positions_B: int32 position of each row's token in its sequence.
      cache: from `prefill` or `grow`, with a slot for every position.

    Returns:
      (hidden_BD, cache, experts_BLA or None).
    """
    hidden_BTD, cache, experts = self.read(
        params, bias_LE, tokens_B[:, None], positions_B, cache)
    return hidden_BTD[:, 0], cache, None if experts is None else experts[:, 0]

  def read(self, params: Params, bias_LE: jax.Array, tokens_BT: jax.Array,
           positions_B: jax.Array, cache: Any,
           shared: Shared | None = None) -> tuple[jax.Array, Any, Any]:
    """Like `decode`, for T consecutive tokens per row.

    Args:
      params, bias_LE: as for `decode`.
      tokens_BT: int32; attention among them is causal.
      positions_B: int32 position of each row's first token.
      cache: with a slot for every token. The MTP module's cache, if it has
        one behind the model's layers, is returned unchanged (see `propose`).
      shared: prompts beside the cache. Of a row of which they hold n positions
        the cache holds the positions from n on: position i is in slot i - n.

    Returns:
      (hidden_BTD, cache, experts_BTLA or None).
    """
    decoder = self._decoder()
    at = self._slot(decoder, positions_B, tokens_BT.shape[1], shared)
    x_BTD = decoder.apply({"params": params}, tokens_BT, method="lookup")
    new_cache, experts, local_L = [], [], self.cfg.local_layers()
    for block, stack, biases in self._stacks(params, bias_LE, decoder.place):
      for i, layer in enumerate(_unstacked(stack)):
        x_BTD, layer_cache, chosen = block.apply(
            {"params": layer}, x_BTD, biases[i] if block.mixture else None,
            cache[len(new_cache)],
            at.of(None if local_L is None else local_L[len(new_cache)],
                  len(new_cache)),
            method="decode")
        new_cache.append(layer_cache)
        if block.mixture:
          experts.append(chosen)
    hidden = decoder.apply({"params": params}, x_BTD, method="finish")
    stacked = jnp.stack(experts, 2) if experts else None
    return hidden, (*new_cache, *cache[len(new_cache):]), stacked

  def propose(self, params: Params, bias_LE: jax.Array, hidden_BTD: jax.Array,
              next_tokens_BT: jax.Array, positions_B: jax.Array, cache: Any,
              shared: Shared | None = None
              ) -> tuple[jax.Array, Any]:
    """Multi-token prediction with a cache, to draft tokens.

    Args:
      params, bias_LE: as for `read`.
      hidden_BTD: states of T consecutive tokens, from `read`.
      next_tokens_BT: int32, the token after each of them.
      positions_B: int32 position of each row's first token.
      cache: of the MTP module: the last layer of what `prefill` returns with
        `drafts`.
      shared: as for `read`.

    Returns:
      (states [B, T, D] that through `head` predict the token after
      `next_tokens_BT`, cache).
    """
    decoder = self._decoder()
    at = self._slot(decoder, positions_B, next_tokens_BT.shape[1], shared)
    return decoder.apply(
        {"params": params}, hidden_BTD, next_tokens_BT, bias_LE, cache,
        at.of(None, -1), method="propose")

  def _slot(self, decoder, positions_B, tokens: int, shared) -> layers.Slot:
    positions_BT = positions_B[:, None] + jnp.arange(tokens)[None]
    cos, sin = rope.angles(
        positions_BT, self.cfg.rope_frequencies(), self.cfg.rope_scale)
    index_B = positions_B
    if shared is not None:
      index_B = positions_B - shared.held_B
    return layers.Slot(cos, sin, index_B,
                       transformer.local_angles(self.cfg, positions_BT), shared)


# Under jit, the forward pass that declares the parameters is dead code. It is
# traced once for all that ask an equal model for parameters, shapes or axes.
@functools.partial(jax.jit, static_argnums=0)
def _boxed(model: Model, key: jax.Array) -> Params:
  tokens = jnp.zeros((1, 2), jnp.int32)
  context = transformer.make_context(model.cfg, tokens, tokens + 1)
  return model._decoder().init(
      key, tokens, model.init_router_bias(), context,
      method="everything")["params"]


def _places(lengths_BK: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
  """int32 (positions, segments) [B, length] of prompts that follow one another.
  """
  ends_BK = jnp.cumsum(lengths_BK, 1)
  index = jnp.arange(length)
  before_BTK = index[None, :, None] >= ends_BK[:, None]
  number_BT = jnp.sum(before_BTK, 2)
  begin_BT = jnp.max(jnp.where(before_BTK, ends_BK[:, None], 0), 2)
  segments_BT = jnp.where(number_BT < lengths_BK.shape[1], number_BT + 1, 0)
  return index[None] - begin_BT, segments_BT


def _through(block, stack, bias_LE, x_BPD, context, some):
  """`x_BPD` after all layers of a stack, and the outputs of each layer.

  Scans where training uses one, because a deep model takes minutes to compile
  unrolled. Unstacked layers are stacked for it, which costs a temporary copy:
  on a CPU of a part of the layers at a time.

  Args:
    block, stack, bias_LE: see `Model._stacks`.
    x_BPD: states of the prompts.
    context: of the prompts.
    some: True, but not known to the compiler.
  """
  def one(x_BPD, layer):
    params, bias_E, is_local = layer
    return block.apply({"params": moving.values(params)}, x_BPD, bias_E, None,
                       is_local, context)

  def scanned(x_BPD, layers_):
    stack = _stacked(moving.bits(block.place.backend, layers_[0]))
    return jax.lax.scan(one, x_BPD, (stack, *layers_[1:]))

  def skipped(x_BPD, layers_):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(
        scanned, x_BPD, layers_))

  layers_ = _unstacked(stack)
  local_L = None if block.mixture else block.cfg.local_layers()
  if block.compute.unrolled(len(layers_), block.place.backend) < len(layers_):
    if type(stack) is not tuple or block.place.backend != "cpu":
      x_BPD, out = scanned(x_BPD, (stack, bias_LE, local_L))
      return x_BPD, _unstacked(out)
    size, outs = -(-len(layers_) // _PARTS), []
    for start in range(0, len(layers_), size):
      # Without a branch XLA would stack all parts before the first is read.
      x_BPD, out = jax.lax.cond(some, scanned, skipped, x_BPD, tuple(
          x if x is None else x[start:start + size]
          for x in (stack, bias_LE, local_L)))
      outs += _unstacked(out)
    return x_BPD, outs
  outs = []
  for i, params in enumerate(layers_):
    x_BPD, out = one(x_BPD, (
        params, bias_LE[i] if block.mixture else None,
        None if local_L is None else local_L[i]))
    outs.append(out)
  return x_BPD, outs


def _unstacked(tree: Any) -> tuple[Any, ...]:
  """A tree stacked over layers -> one tree per layer; a tuple is unchanged."""
  if type(tree) is tuple:
    return tree
  return tuple(jax.tree.map(lambda a, i=i: a[i], tree)
               for i in range(len(jax.tree.leaves(tree)[0])))


def _stacked(layers_: Any) -> Any:
  """One tree per layer -> a tree stacked over layers; a stack is unchanged."""
  if type(layers_) is not tuple:
    return layers_
  return jax.tree.map(lambda *parts: jnp.stack(parts), *layers_)


def build(cfg: ModelConfig, compute: Compute | None = None) -> Model:
  """The model of an architecture; `compute` defaults to float32."""
  return Model(cfg, compute or Compute())


def shapes(model: Any, computing: bool = False) -> Params:
  """The tree of a model's parameters as shapes and dtypes.

  Args:
    model: a `Model`, or a `ScalarModel`.
    computing: whether to apply `cast`, as for a model that is not trained.
  """
  made = jax.eval_shape(model.init, jax.random.key(0))
  return jax.eval_shape(model.cast, made) if computing else made
