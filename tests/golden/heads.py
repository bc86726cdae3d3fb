"""Heads: pattern scores on repeated sequences as TransformerLens's demos define them, copy scores
of Wang et al. (2022), products of factored matrices, positional circuits; and for the shipped model
(assets/mini) head detection, composition and the spectra of all circuits as well.

Computed by TransformerLens in f64 and rounded to f32 at the end.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer

import analysis
import models
from models import Spec, Tensors

PERIOD = 5
COPY_TOP = 5
SHIPPED = "mini"
ASSETS = Path(__file__).parents[2] / "assets" / "mini"
# The head whose large matrices are stored, and rows of them.
SHIPPED_HEAD = (1, 2)
ROWS = [101, 117, 200, 395]
SHIPPED_PERIOD = 20

KEYS = {
    "stripes/{previous,duplicate,induction}": "[L, H]: mean of the attention's diagonal 1, period "
    "or period - 1 back, over sequences given twice (repeated), as in TransformerLens's Main Demo",
    "copy/{positive,negative}": "[L, H]: resid_post of block 0 at copy_prompts' last position -> "
    "ln1 -> W_V, b_V -> W_O -> (negated) -> ln_final -> unembed; share among the top 5",
    "product": "[d_model, d_model]: OV of head 0.1 times QK of head 1.0",
    "norms/{ov,qk,full_ov,full_qk}": "[L, H]: Frobenius norms",
    "positional": "[n_ctx, n_ctx] of positional_head: W_pos W_Q W_K^T W_pos^T",
    "rows/{full_ov,full_qk}": "rows of the full circuits of rows_head (shipped model)",
    "singular/{ov,full_ov}": "[d_model or vocab, 3]: |left singular vectors| of rows_head's first "
    "singular values (shipped model)",
    "heads/..., composition/..., circuits/...": "as in analysis.py (shipped model)",
}


def shipped() -> tuple[Spec, Tensors]:
    """The shipped model's shape and weights."""
    config = json.loads((ASSETS / "config.json").read_text())
    spec = Spec(
        SHIPPED,
        seed=0,
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        n_embd=config["n_embd"],
        vocab_size=config["vocab_size"],
        n_positions=config["n_positions"],
        activation_function=config["activation_function"],
        layer_norm_epsilon=config["layer_norm_epsilon"],
    )
    weights = load_file(ASSETS / "model.safetensors")
    weights = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    return spec, {name: t for name, t in weights.items() if not name.startswith("lm_head")}


def head_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    lens = models.transformer_lens(spec, weights, torch.float64)
    is_shipped = spec.name == SHIPPED
    head = SHIPPED_HEAD if is_shipped else (spec.n_layer - 1, 1)
    period = SHIPPED_PERIOD if is_shipped else PERIOD
    repeated = repeated_sequences(spec, period)
    copied = [[0, token] for token in range(1, min(spec.vocab_size, 151))]
    with torch.no_grad():
        out = stripes(lens, repeated, period) | copy_scores(lens, copied) | matrices(lens, head)
        if is_shipped:
            tokens = (torch.tensor(analysis.REPEATING_PROMPT) + 200).tolist()
            out |= large_matrices(lens, head) | spectra(lens)
            out |= analysis.head_detection(lens, torch.tensor(tokens))
            out |= {f"composition/{mode}": lens.all_composition_scores(mode) for mode in "QKV"}
    metadata = {
        "model": spec.name,
        "repeated": repeated,
        "period": period,
        "copy_prompts": copied,
        "positional_head": head,
        "rows_head": head,
        "rows": ROWS,
        "repeating_prompt": [t + 200 for t in analysis.REPEATING_PROMPT],
        "keys": KEYS,
    }
    return out, metadata


def repeated_sequences(spec: Spec, period: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(spec.seed + 1)
    draw = lambda: torch.randperm(spec.vocab_size, generator=generator)[:period].tolist()  # noqa: E731
    return [2 * draw() for _ in range(4)]


def stripes(model: HookedTransformer, sequences: list[list[int]], period: int) -> Tensors:
    _, cache = model.run_with_cache(torch.tensor(sequences))
    back = {"previous": 1, "duplicate": period, "induction": period - 1}
    out = {}
    for name, offset in back.items():
        by_layer = [
            cache["pattern", layer].diagonal(dim1=-2, dim2=-1, offset=-offset).mean((0, -1))
            for layer in range(model.cfg.n_layers)
        ]
        out[f"stripes/{name}"] = torch.stack(by_layer)
    return out


def copy_scores(model: HookedTransformer, prompts: list[list[int]]) -> Tensors:
    tokens = torch.tensor(prompts)
    _, cache = model.run_with_cache(tokens)
    state = cache["resid_post", 0][:, -1]
    out = {}
    for name, sign in {"positive": 1.0, "negative": -1.0}.items():
        scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.float64)
        for layer, block in enumerate(model.blocks):
            read = block.ln1(state[:, None])[:, 0]
            for head in range(model.cfg.n_heads):
                value = read @ block.attn.W_V[head] + block.attn.b_V[head]
                written = sign * value @ block.attn.W_O[head]
                logits = model.unembed(model.ln_final(written[:, None]))[:, 0]
                top = logits.topk(COPY_TOP).indices
                scores[layer, head] = (top == tokens[:, -1:]).any(-1).double().mean()
        out[f"copy/{name}"] = scores
    return out


def factored(model: HookedTransformer) -> dict:
    return {
        "ov": model.OV,
        "qk": model.QK,
        "full_ov": model.W_E @ model.OV @ model.W_U,
        "full_qk": model.W_E @ model.QK @ model.W_E.T,
    }


def matrices(model: HookedTransformer, head: tuple[int, int]) -> Tensors:
    out = {f"norms/{name}": matrix.norm() for name, matrix in factored(model).items()}
    positional = model.W_pos @ model.QK[head] @ model.W_pos.T
    out["positional"] = positional.AB
    if model.cfg.d_model < 64:
        out["product"] = (model.OV[0, 1] @ model.QK[1, 0]).AB
    return out


def large_matrices(model: HookedTransformer, head: tuple[int, int]) -> Tensors:
    full = factored(model)
    out = {f"rows/{name}": full[name][head].AB[ROWS] for name in ("full_ov", "full_qk")}
    for name in ("ov", "full_ov"):
        u, _, _ = full[name][head].svd()
        out[f"singular/{name}"] = u[:, :3].abs()
    return out


def spectra(model: HookedTransformer) -> Tensors:
    """What analysis.circuits stores, without the dense matrices."""
    found = analysis.circuits(model, (0, 0))
    return {name: tensor for name, tensor in found.items() if not name.endswith("/dense")}
