"""Attention knock-out (Geva et al. 2023, section 4), by TransformerLens hooks that write -inf into
attention scores: one full run for every cut, window, layer and prompt, in f64."""

import torch

import models
from models import Spec, Tensors

MODELS = ["tiny-gelu", "mini"]
PROMPTS = [[7, 31, 2, 45, 18, 31, 9], [40, 3, 22, 14]]
WINDOWS = [1, 2, 3, 9]
# By prompt: destinations and cut sources; heads in all prompts (None: all of them).
CUTS = {
    "sources": ([[6], [3]], [[1, 2], [0]], None),
    "keeps": ([[6], [3]], [[0, 1, 3, 4, 5], [1, 2]], None),
    "itself": ([[6], [3]], [[6], [3]], None),
    "one_head": ([[6], [3]], [[1, 2], [0]], [1]),
    "readers": ([[4, 5], [1, 2]], [[1, 2], [0]], None),
}

KEYS = {
    "tokens": "[prompt], the likeliest next token of each prompt",
    "clean": "[prompt], its probability",
    "{cut}/window{w}": "[layer, prompt], the same with the edges cut in the window",
}


def window(layer: int, width: int, n_layers: int) -> range:
    return range(max(0, layer - width // 2), min(n_layers, layer - (-width // 2)))


def knockout_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    lens = models.transformer_lens(spec, weights, torch.float64)
    n_layers = lens.cfg.n_layers

    def last(prompt: list[int], hooks: list) -> torch.Tensor:
        logits = lens.run_with_hooks(torch.tensor(prompt)[None], fwd_hooks=hooks)
        return logits[0, -1].softmax(-1)

    clean = [last(prompt, []) for prompt in PROMPTS]
    tokens = [int(row.argmax()) for row in clean]
    tensors: Tensors = {
        "tokens": torch.tensor(tokens),
        "clean": torch.stack([row[token] for row, token in zip(clean, tokens)]),
    }
    for name, (dests, sources, heads) in CUTS.items():
        for width in WINDOWS:
            table = torch.zeros(n_layers, len(PROMPTS), dtype=torch.float64)
            for i, prompt in enumerate(PROMPTS):

                def cut(scores: torch.Tensor, hook) -> torch.Tensor:
                    for head in range(scores.shape[1]) if heads is None else heads:
                        for dest in dests[i]:
                            scores[:, head, dest, sources[i]] = -torch.inf
                    return scores

                for layer in range(n_layers):
                    points = [
                        (f"blocks.{l}.attn.hook_attn_scores", cut)
                        for l in window(layer, width, n_layers)
                    ]
                    table[layer, i] = last(prompt, points)[tokens[i]]
            tensors[f"{name}/window{width}"] = table
    cuts = {
        name: {"dest": dests, "src": sources, "heads": heads}
        for name, (dests, sources, heads) in CUTS.items()
    }
    return tensors, {"prompts": PROMPTS, "windows": WINDOWS, "cuts": cuts, "keys": KEYS}
