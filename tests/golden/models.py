"""The small random GPT-2-style models: weights, checkpoints, and their two reference builds.

Weights live in one canonical form, a dict under Hugging Face GPT-2 names without the
`transformer.` prefix and with Conv1D layout [in, out]. Everything else is made from it:
the checkpoint files, a Hugging Face `GPT2LMHeadModel` and a TransformerLens
`HookedTransformer` (no weight processing).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import GPT2Config, GPT2LMHeadModel

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Spec:
    """One model: its architecture, and how its checkpoint is written."""

    name: str
    seed: int
    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int
    n_positions: int
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    # How the checkpoint is written.
    prefix: str = ""
    mask_buffers: bool = False
    sharded: bool = False
    dtype: torch.dtype = torch.float32
    minimal_config: bool = False
    redundant_lm_head: bool = False
    # What is stored for it: "full", or "logits" for the half-precision copies.
    reference: str = "full"

    @property
    def d_mlp(self) -> int:
        return self.n_inner if self.n_inner is not None else 4 * self.n_embd

    @property
    def d_head(self) -> int:
        return self.n_embd // self.n_head


_GELU_NEW = dict(seed=11, n_layer=2, n_head=3, n_embd=24, vocab_size=53, n_positions=16)

SPECS = [
    Spec(
        "tiny-gelu-new",
        **_GELU_NEW,
        prefix="transformer.",
        mask_buffers=True,
    ),
    Spec(
        "tiny-gelu",
        seed=22,
        n_layer=3,
        n_head=4,
        n_embd=20,
        vocab_size=50,
        n_positions=12,
        n_inner=36,
        activation_function="gelu",
        layer_norm_epsilon=1e-3,
        scale_attn_by_inverse_layer_idx=True,
        tie_word_embeddings=False,
        sharded=True,
    ),
    Spec(
        "tiny-relu",
        seed=33,
        n_layer=2,
        n_head=2,
        n_embd=18,
        vocab_size=57,
        n_positions=10,
        n_inner=45,
        activation_function="relu",
        layer_norm_epsilon=1e-2,
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
        tie_word_embeddings=False,
        prefix="transformer.",
    ),
    Spec(
        "tiny-f16",
        **_GELU_NEW,
        dtype=torch.float16,
        redundant_lm_head=True,
        reference="logits",
    ),
    Spec(
        "tiny-bf16",
        **_GELU_NEW,
        dtype=torch.bfloat16,
        minimal_config=True,
        reference="logits",
    ),
]


# Weights


def random_weights(spec: Spec) -> Tensors:
    """Canonical weights, rounded to the checkpoint's dtype but held in f32."""
    generator = torch.Generator().manual_seed(spec.seed)
    weights = {
        name: _random_tensor(name, shape, generator) for name, shape in _shapes(spec).items()
    }
    return {name: tensor.to(spec.dtype).float() for name, tensor in weights.items()}


def _shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    d, inner = spec.n_embd, spec.d_mlp
    shapes = {"wte.weight": (spec.vocab_size, d), "wpe.weight": (spec.n_positions, d)}
    for layer in range(spec.n_layer):
        for part, shape in {
            "ln_1": (d,),
            "attn.c_attn": (d, 3 * d),
            "attn.c_proj": (d, d),
            "ln_2": (d,),
            "mlp.c_fc": (d, inner),
            "mlp.c_proj": (inner, d),
        }.items():
            shapes[f"h.{layer}.{part}.weight"] = shape
            shapes[f"h.{layer}.{part}.bias"] = shape[-1:]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (d,)
    if not spec.tie_word_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, d)
    return shapes


def _random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Sizes at which no activation saturates and no term is negligible."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return 0.3 * noise
    if ".ln_" in name or name.startswith("ln_"):
        return 1.0 + 0.3 * noise
    if name in ("wte.weight", "wpe.weight", "lm_head.weight"):
        return 0.5 * noise
    return 1.2 / math.sqrt(shape[0]) * noise


# Checkpoints


def config_json(spec: Spec) -> dict:
    config = {
        "activation_function": spec.activation_function,
        "architectures": ["GPT2LMHeadModel"],
        "layer_norm_epsilon": spec.layer_norm_epsilon,
        "model_type": "gpt2",
        "n_ctx": spec.n_positions,
        "n_embd": spec.n_embd,
        "n_head": spec.n_head,
        "n_layer": spec.n_layer,
        "n_positions": spec.n_positions,
        "vocab_size": spec.vocab_size,
    }
    if spec.minimal_config:  # like the first GPT-2 config files: defaults are left out
        return config
    return config | {
        "n_inner": spec.n_inner,
        "scale_attn_by_inverse_layer_idx": spec.scale_attn_by_inverse_layer_idx,
        "scale_attn_weights": spec.scale_attn_weights,
        "tie_word_embeddings": spec.tie_word_embeddings,
    }


def checkpoint_name(spec: Spec, canonical: str) -> str:
    """The name in this model's own checkpoint (`lm_head` never carries the prefix)."""
    return canonical if canonical.startswith("lm_head") else spec.prefix + canonical


def write_checkpoint(spec: Spec, weights: Tensors, directory: Path) -> None:
    tensors = {checkpoint_name(spec, name): t.to(spec.dtype) for name, t in weights.items()}
    if spec.redundant_lm_head:
        tensors["lm_head.weight"] = tensors[spec.prefix + "wte.weight"].clone()
    if spec.mask_buffers:
        tensors |= _mask_buffers(spec)
    write_json(directory / "config.json", config_json(spec))
    if spec.sharded:
        _write_shards(tensors, directory)
    else:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _mask_buffers(spec: Spec) -> Tensors:
    """The buffers that older checkpoints carry: f32 in layer 0, bool after it."""
    buffers = {}
    n = spec.n_positions
    for layer in range(spec.n_layer):
        dtype = torch.float32 if layer == 0 else torch.bool
        mask = torch.tril(torch.ones(n, n)).to(dtype).reshape(1, 1, n, n)
        buffers[f"{spec.prefix}h.{layer}.attn.bias"] = mask
        buffers[f"{spec.prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return buffers


def _write_shards(tensors: Tensors, directory: Path) -> None:
    """Two shards of about equal size, in name order, and their index."""
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    shards: list[Tensors] = [{}, {}]
    written = 0
    for name in sorted(tensors):
        shards[0 if written < total // 2 else 1][name] = tensors[name]
        written += tensors[name].numel() * tensors[name].element_size()
    for file, shard in zip(files, shards):
        save_file(shard, directory / file, metadata={"format": "pt"})
    weight_map = {name: file for file, shard in zip(files, shards) for name in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / "model.safetensors.index.json", index)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


# Reference builds


def hugging_face(spec: Spec, weights: Tensors) -> GPT2LMHeadModel:
    config = GPT2Config(**config_json(spec), attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    state = {n if n.startswith("lm_head") else f"transformer.{n}": t for n, t in weights.items()}
    state.setdefault("lm_head.weight", weights["wte.weight"])
    model.load_state_dict(state, strict=True)
    return model


def transformer_lens(
    spec: Spec, weights: Tensors, dtype: torch.dtype = torch.float32
) -> HookedTransformer:
    return lens_from_state(spec, to_lens_layout(spec, weights), dtype)


def lens_from_state(
    spec: Spec, state: Tensors, dtype: torch.dtype, normalization: str = "LN"
) -> HookedTransformer:
    """From a TransformerLens state dict. `normalization` is "LNPre" once LayerNorm is folded."""
    config = HookedTransformerConfig(
        n_layers=spec.n_layer,
        d_model=spec.n_embd,
        n_ctx=spec.n_positions,
        d_head=spec.d_head,
        n_heads=spec.n_head,
        d_mlp=spec.d_mlp,
        d_vocab=spec.vocab_size,
        act_fn=spec.activation_function,
        eps=spec.layer_norm_epsilon,
        use_attn_scale=spec.scale_attn_weights,
        scale_attn_by_inverse_layer_idx=spec.scale_attn_by_inverse_layer_idx,
        normalization_type=normalization,
        default_prepend_bos=False,
        device="cpu",
        dtype=dtype,
        init_weights=False,
    )
    model = HookedTransformer(config).eval()
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith((".mask", ".IGNORE")) for name in missing), missing
    return model


_RENAMED = {
    "ln_1.weight": "ln1.w",
    "ln_1.bias": "ln1.b",
    "ln_2.weight": "ln2.w",
    "ln_2.bias": "ln2.b",
    "mlp.c_fc.weight": "mlp.W_in",
    "mlp.c_fc.bias": "mlp.b_in",
    "mlp.c_proj.weight": "mlp.W_out",
    "mlp.c_proj.bias": "mlp.b_out",
    "attn.c_proj.bias": "attn.b_O",
}


def to_lens_layout(spec: Spec, weights: Tensors) -> Tensors:
    """Canonical (Hugging Face) layout -> TransformerLens layout."""
    head = weights.get("lm_head.weight", weights["wte.weight"])
    out = {
        "embed.W_E": weights["wte.weight"],
        "pos_embed.W_pos": weights["wpe.weight"],
        "ln_final.w": weights["ln_f.weight"],
        "ln_final.b": weights["ln_f.bias"],
        "unembed.W_U": head.T.contiguous(),
        "unembed.b_U": torch.zeros(spec.vocab_size),
    }
    heads, size = spec.n_head, spec.d_head
    for layer in range(spec.n_layer):
        hf, tl = f"h.{layer}.", f"blocks.{layer}."
        for old, new in _RENAMED.items():
            out[tl + new] = weights[hf + old]
        qkv = weights[hf + "attn.c_attn.weight"].split(spec.n_embd, dim=1)
        biases = weights[hf + "attn.c_attn.bias"].split(spec.n_embd)
        for letter, weight, bias in zip("QKV", qkv, biases):
            out[f"{tl}attn.W_{letter}"] = weight.reshape(-1, heads, size).transpose(0, 1)
            out[f"{tl}attn.b_{letter}"] = bias.reshape(heads, size)
        out[tl + "attn.W_O"] = weights[hf + "attn.c_proj.weight"].reshape(heads, size, -1)
    return out


def to_hugging_face_layout(spec: Spec, lens: Tensors) -> Tensors:
    """TransformerLens layout -> canonical layout, with `lm_head.weight` and `lm_head.bias`.

    LayerNorm parameters that the source lacks (folded ones) are left out.
    """
    out = {
        "wte.weight": lens["embed.W_E"],
        "wpe.weight": lens["pos_embed.W_pos"],
        "lm_head.weight": lens["unembed.W_U"].T,
        "lm_head.bias": lens["unembed.b_U"],
    }
    if "ln_final.w" in lens:
        out |= {"ln_f.weight": lens["ln_final.w"], "ln_f.bias": lens["ln_final.b"]}
    d = spec.n_embd
    for layer in range(spec.n_layer):
        hf, tl = f"h.{layer}.", f"blocks.{layer}."
        for old, new in _RENAMED.items():
            if tl + new in lens:
                out[hf + old] = lens[tl + new]
        qkv = [lens[f"{tl}attn.W_{x}"].transpose(0, 1).reshape(d, d) for x in "QKV"]
        out[hf + "attn.c_attn.weight"] = torch.cat(qkv, dim=1)
        biases = [lens[f"{tl}attn.b_{x}"].reshape(d) for x in "QKV"]
        out[hf + "attn.c_attn.bias"] = torch.cat(biases)
        out[hf + "attn.c_proj.weight"] = lens[tl + "attn.W_O"].reshape(d, d)
    return {name: tensor.detach().contiguous() for name, tensor in out.items()}
