"""Maps tensors of a Hugging Face checkpoint to parts of parameters.

`table` returns one Entry for each kind of tensor, for both import and export.
Names are those of the published files of DeepSeek-V2 and V3, Qwen2, Qwen3,
Llama and Gemma 3. RoPE's pairing of dimensions (halves or adjacent pairs) is
that of each family (see `r1jax.ops.rope`), so no weight is permuted.

DeepSeek-V3 stores its MTP module as layer `n_layers`, together with copies of
the main embedding and head. Export writes the copies, as in the published
files. Import accepts files without them; copies that differ from the original
are an error in `hf_io.load`, because the model shares these parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from r1jax.models.config import ModelConfig

# For each dimension of the stored tensor, the axes of the leaf (of one layer
# and expert) that are flattened into it. torch stores matrices as [out, in].
LAYOUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vector": ((0,),),  # norms and biases of one axis
    "matrix": ((0,), (1,)),  # unchanged
    "transpose": ((1,), (0,)),  # [out, in] -> [in, out]
    "split_heads": ((1, 2), (0,)),  # [N*H, in] -> [in, N, H]
    "join_heads": ((2,), (0, 1)),  # [out, N*H] -> [N, H, out]
    "split_bias": ((0, 1),),  # [N*H] -> [N, H]
}

Row = tuple[str, str, str]

EMBED: Row = ("model.embed_tokens.weight", "embed", "matrix")
NORM: Row = ("model.norm.weight", "norm", "vector")
HEAD: Row = ("lm_head.weight", "w_head", "transpose")
# Replaces the head in ...ForSequenceClassification with one label.
SCORE: Row = ("score.weight", "score", "transpose")

NORMS: tuple[Row, ...] = (
    ("input_layernorm.weight", "norm_1", "vector"),
    ("post_attention_layernorm.weight", "norm_2", "vector"),
)
# Gemma's four norms. In other families the second name is that of norm_2.
SANDWICH: tuple[Row, ...] = (
    ("input_layernorm.weight", "norm_1", "vector"),
    ("post_attention_layernorm.weight", "post_1", "vector"),
    ("pre_feedforward_layernorm.weight", "norm_2", "vector"),
    ("post_feedforward_layernorm.weight", "post_2", "vector"),
)
QUERY: tuple[Row, ...] = (
    ("self_attn.q_proj.weight", "attn.w_q", "split_heads"),)
LATENT_QUERY: tuple[Row, ...] = (
    ("self_attn.q_a_proj.weight", "attn.w_dq", "transpose"),
    ("self_attn.q_a_layernorm.weight", "attn.q_norm", "vector"),
    ("self_attn.q_b_proj.weight", "attn.w_uq", "split_heads"),
)
LATENT: tuple[Row, ...] = (
    ("self_attn.kv_a_proj_with_mqa.weight", "attn.w_dkv", "transpose"),
    ("self_attn.kv_a_layernorm.weight", "attn.kv_norm", "vector"),
    ("self_attn.kv_b_proj.weight", "attn.w_ukv", "split_heads"),
)
KEY_VALUE: tuple[Row, ...] = (
    ("self_attn.k_proj.weight", "attn.w_k", "split_heads"),
    ("self_attn.v_proj.weight", "attn.w_v", "split_heads"),
)
OUTPUT: tuple[Row, ...] = (
    ("self_attn.o_proj.weight", "attn.w_o", "join_heads"),)
QKV_BIAS: tuple[Row, ...] = (
    ("self_attn.q_proj.bias", "attn.b_q", "split_bias"),
    ("self_attn.k_proj.bias", "attn.b_k", "split_bias"),
    ("self_attn.v_proj.bias", "attn.b_v", "split_bias"),
)
O_BIAS: tuple[Row, ...] = (("self_attn.o_proj.bias", "attn.b_o", "vector"),)
QK_NORM: tuple[Row, ...] = (
    ("self_attn.q_norm.weight", "attn.q_norm", "vector"),
    ("self_attn.k_norm.weight", "attn.k_norm", "vector"),
)
FEED_FORWARD: tuple[Row, ...] = (
    ("mlp.gate_proj.weight", "ffn.w_gate", "transpose"),
    ("mlp.up_proj.weight", "ffn.w_up", "transpose"),
    ("mlp.down_proj.weight", "ffn.w_down", "transpose"),
)
ROUTER: tuple[Row, ...] = (("mlp.gate.weight", "ffn.w_router", "transpose"),)
EXPERTS: tuple[Row, ...] = (
    ("mlp.experts.{expert}.gate_proj.weight", "ffn.w_gate", "transpose"),
    ("mlp.experts.{expert}.up_proj.weight", "ffn.w_up", "transpose"),
    ("mlp.experts.{expert}.down_proj.weight", "ffn.w_down", "transpose"),
)
SHARED: tuple[Row, ...] = (
    ("mlp.shared_experts.gate_proj.weight", "ffn.shared.w_gate", "transpose"),
    ("mlp.shared_experts.up_proj.weight", "ffn.shared.w_up", "transpose"),
    ("mlp.shared_experts.down_proj.weight", "ffn.shared.w_down", "transpose"),
)
MTP: tuple[Row, ...] = (
    ("enorm.weight", "mtp.e_norm", "vector"),
    ("hnorm.weight", "mtp.h_norm", "vector"),
    ("eh_proj.weight", "mtp.w_join", "transpose"),
    ("shared_head.norm.weight", "mtp.norm", "vector"),
)
# Kept beside the parameters; its rows are mixture layers, then the MTP module.
ROUTER_BIAS = "router_bias_LE"
SELECTION_BIAS: Row = (
    "mlp.gate.e_score_correction_bias", ROUTER_BIAS, "vector")

# Buffers in old Llama files, which follow from the config: ignored.
IGNORED = ("rotary_emb.inv_freq",)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One kind of tensor.

  Attributes:
    hf: name of the tensor, with the placeholders `{layer}` and `{expert}`.
    path: dotted path of the leaf in the parameters, or ROUTER_BIAS.
    layout: key of LAYOUTS.
    layers: numbers of the layers that are stacked in the leaf's first axis, in
      order; empty for a leaf without that axis.
    experts: size of the axis of experts, which comes next; 0 without that axis.
    copy: whether it repeats the leaf of another entry. It may then be absent,
      and must be equal.
    written: whether export writes it.
  """

  hf: str
  path: str
  layout: str
  layers: tuple[int, ...] = ()
  experts: int = 0
  copy: bool = False
  written: bool = True

  @property
  def stacked(self) -> int:
    """Number of leading axes of the leaf that the stored tensor lacks."""
    return bool(self.layers) + bool(self.experts)

  @property
  def quantised(self) -> bool:
    """Whether DeepSeek's FP8 files quantise it: the projections of blocks."""
    return (len(LAYOUTS[self.layout]) == 2
            and (".self_attn." in self.hf or "_proj." in self.hf)
            and "eh_proj" not in self.hf)

  def shape(self, leaf: Sequence[int]) -> tuple[int, ...]:
    """Shape of the stored tensor for a leaf of shape `leaf`."""
    inner = tuple(leaf)[self.stacked:]
    return tuple(math.prod(inner[a] for a in axes)
                 for axes in LAYOUTS[self.layout])

  def name(self, at: Sequence[int] = ()) -> str:
    """Name of the tensor at an index into the stacked axes of the leaf."""
    return self.hf.format(layer=self.layers[at[0]] if self.layers else None,
                          expert=at[-1] if self.experts else None)

  def places(self) -> Iterator[tuple[int, ...]]:
    """Every index into the stacked axes of the leaf, one for each tensor."""
    return np.ndindex(*(n for n in (len(self.layers), self.experts) if n))


def stored_slices(layout: str, index: Sequence[slice],
                  inner: Sequence[int]) -> tuple[slice, ...]:
  """The smallest rectangle of a stored tensor that covers a part of the leaf.

  An axis that is not the first of its group in LAYOUTS is read whole; `cut`
  then takes the requested part.

  Args:
    layout: key of LAYOUTS.
    index: slices with start and stop of the leaf's axes, without stacked axes.
    inner: the whole sizes of these axes.
  """
  slices = []
  for first, *rest in LAYOUTS[layout]:
    width = math.prod(inner[a] for a in rest)
    slices.append(slice(index[first].start * width, index[first].stop * width))
  return tuple(slices)


def cut(array: np.ndarray, layout: str, index: Sequence[slice],
        inner: Sequence[int]) -> np.ndarray:
  """The part `index` of the leaf from what was read at `stored_slices`."""
  firsts = {group[0] for group in LAYOUTS[layout]}
  sizes = [s.stop - s.start if a in firsts else inner[a]
           for a, s in enumerate(index)]
  return to_leaf(array, layout, sizes)[tuple(
      slice(None) if a in firsts else s for a, s in enumerate(index))]


def to_leaf(array: np.ndarray, layout: str,
            inner: Sequence[int]) -> np.ndarray:
  """A stored tensor (or a part of it) in the leaf's shape `inner`."""
  order = [a for axes in LAYOUTS[layout] for a in axes]
  return array.reshape([inner[a] for a in order]).transpose(np.argsort(order))


def to_stored(inner: np.ndarray, layout: str) -> np.ndarray:
  """The inverse of `to_leaf` for a whole tensor."""
  axes = LAYOUTS[layout]
  shape = [math.prod(inner.shape[a] for a in group) for group in axes]
  return inner.transpose([a for group in axes for a in group]).reshape(shape)


def table(cfg: ModelConfig, scalar: bool = False) -> tuple[Entry, ...]:
  """All entries of a model, in the order in which files are written.

  Args:
    cfg: of the model.
    scalar: whether it has a scalar head (a reward model) instead of the
      unembedding.
  """
  n_dense = cfg.n_layers - cfg.n_mixture_layers
  dense = tuple(range(n_dense))
  mixture = tuple(range(n_dense, cfg.n_layers))
  entries = [Entry(*EMBED)]
  if dense:
    entries += _block(cfg, False, "dense_blocks", dense)
  if mixture:
    entries += _block(cfg, True, "mixture_blocks", mixture)
  entries.append(Entry(*NORM))
  if scalar:
    entries.append(Entry(*SCORE))
  elif cfg.tie_embeddings:
    # Some files repeat the embedding as the head; transformers does not.
    entries.append(Entry(HEAD[0], "embed", "matrix", copy=True, written=False))
  else:
    entries.append(Entry(*HEAD))
  if cfg.n_mtp:
    entries += _mtp(cfg)
  if cfg.n_experts and cfg.selection_bias:
    layers = mixture + tuple(range(cfg.n_layers, cfg.n_layers + cfg.n_mtp))
    entries.append(Entry("model.layers.{layer}." + SELECTION_BIAS[0],
                         *SELECTION_BIAS[1:], layers))
  return tuple(entries)


def _block(cfg, mixture, path, layers, prefix="model.layers.{layer}."):
  rows = (SANDWICH if cfg.post_norms else NORMS) + _attention(cfg)
  if not mixture:
    rows += FEED_FORWARD
  else:
    rows += ROUTER + EXPERTS + (SHARED if cfg.n_shared else ())
  return [
      Entry(prefix + hf, f"{path}.{leaf}", layout, layers,
            cfg.n_experts if "{expert}" in hf else 0)
      for hf, leaf, layout in rows]


def _attention(cfg):
  if cfg.attention == "mla":
    return (LATENT_QUERY if cfg.q_rank else QUERY) + LATENT + OUTPUT
  return (QUERY + KEY_VALUE + OUTPUT + QKV_BIAS * cfg.qkv_bias
          + O_BIAS * cfg.o_bias + QK_NORM * cfg.qk_norm)


def _mtp(cfg):
  prefix = f"model.layers.{cfg.n_layers}."
  head = ("embed", "matrix") if cfg.tie_embeddings else HEAD[1:]
  return [
      Entry(prefix + "embed_tokens.weight", *EMBED[1:], copy=True),
      *(Entry(prefix + hf, path, layout) for hf, path, layout in MTP),
      *_block(cfg, bool(cfg.n_experts), "mtp.block", (), prefix),
      Entry(prefix + "shared_head.head.weight", *head, copy=True)]
