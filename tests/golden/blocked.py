"""Attention rows that are left nothing to attend to, and single edges that are cut in three ways,
by TransformerLens: hooks that write attention scores or patterns."""

import torch

import models
from models import Spec, Tensors

MODELS = ["tiny-gelu"]
LAYER = 1
EDGE = (1, 4, 2)  # head, destination, source

KEYS = {
    "{case}/pattern": f"hook_pattern of layer {LAYER}, [head, dest, src]",
    "{case}/z": f"hook_z of layer {LAYER}, [pos, head, d_head]",
    "{case}/logits": "[pos, vocab]",
}


def first_source(scores: torch.Tensor) -> torch.Tensor:
    scores[..., 0] = -torch.inf
    return scores


def last_row(scores: torch.Tensor) -> torch.Tensor:
    scores[..., -1, :] = -torch.inf
    return scores


def times_zero(scores: torch.Tensor) -> torch.Tensor:
    return scores * 0


def all_very_low(scores: torch.Tensor) -> torch.Tensor:
    """As a finite stand-in for -inf: each row becomes uniform over all positions that get it."""
    size = scores.shape[-1]
    visible = torch.tril(torch.ones(size, size, dtype=torch.bool))
    return torch.where(visible, -1e9, scores)


def edge(value: float):
    def hook(tensor: torch.Tensor) -> torch.Tensor:
        head, dest, src = EDGE
        tensor[:, head, dest, src] = value
        return tensor

    return hook


CASES = {
    "first_source": ("hook_attn_scores", first_source),
    "last_row": ("hook_attn_scores", last_row),
    "times_zero": ("hook_attn_scores", times_zero),
    "all_very_low": ("hook_attn_scores", all_very_low),
    "edge_blocked": ("hook_attn_scores", edge(-torch.inf)),
    "edge_without_weight": ("hook_pattern", edge(0.0)),
    "edge_score_zero": ("hook_attn_scores", edge(0.0)),
}


def blocked_reference(spec: Spec, weights: Tensors, prompt: list[int]) -> tuple[Tensors, dict]:
    lens = models.transformer_lens(spec, weights)
    tokens = torch.tensor(prompt)[None]
    tensors: Tensors = {}
    for case, (point, hook) in CASES.items():
        name = f"blocks.{LAYER}.attn."
        lens.reset_hooks()
        lens.add_hook(name + point, lambda tensor, hook, edit=hook: edit(tensor.clone()))
        logits, cache = lens.run_with_cache(tokens)
        tensors[f"{case}/pattern"] = cache[name + "hook_pattern"][0]
        tensors[f"{case}/z"] = cache[name + "hook_z"][0]
        tensors[f"{case}/logits"] = logits[0]
    lens.reset_hooks()
    return tensors, {"layer": LAYER, "edge": EDGE, "cases": list(CASES), "keys": KEYS}
