"""Patching between prompts of different lengths, and answers of several tokens, by TransformerLens
hooks: one full run for every cell, in f64."""

import torch

import models
from models import Spec, Tensors

MODELS = ["tiny-gelu"]
CLEAN = [[7, 31, 2, 45, 18, 31, 9], [40, 3, 22, 14], [5, 6, 7, 8, 9]]
CORRUPTED = [[7, 12, 2, 18, 9], [40, 33, 41, 3, 22, 14], [6, 5, 7, 8, 9]]
# By pair, positions in the clean and in the corrupted prompt; None where one of them lacks the role.
ROLES = {
    "name": [([1, 5], [1, 3]), ([1], [3]), ([0, 1], [0, 1])],
    "middle": [([3], [2]), None, ([2], [2])],
    "end": [([6], [4]), ([3], [5]), ([4], [4])],
}
TOKENS = (3, 5)
ANSWERS = [[9, 4, 30], [14, 2], [11]]

KEYS = {
    "base/{direction}": "[pair], logit difference at the end of the runs that are patched",
    "resid_pre/{direction}": "[layer, role, pair], the same with the other run's rows of the role; "
    "the unpatched value where the pair lacks it",
    "z/{direction}": "[layer, head, pair], the same with one head's rows of all roles",
    "answers": "[pair], log p of the answer after the clean prompt, teacher-forced",
    "answers/resid_pre": "[layer, pos, pair 0], the same with resid_pre set to 0 at a position",
}


def aligned_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    lens = models.transformer_lens(spec, weights, torch.float64)
    runs = {"clean": CLEAN, "corrupted": CORRUPTED}
    caches = {
        name: [lens.run_with_cache(torch.tensor(p)[None])[1] for p in prompts]
        for name, prompts in runs.items()
    }

    def metric(prompt: list[int], hooks: list) -> torch.Tensor:
        logits = lens.run_with_hooks(torch.tensor(prompt)[None], fwd_hooks=hooks)[0, -1]
        return logits[TOKENS[0]] - logits[TOKENS[1]]

    tensors: Tensors = {}
    for direction, (into, side) in {"denoising": ("corrupted", 1), "noising": ("clean", 0)}.items():
        donor = "clean" if into == "corrupted" else "corrupted"

        def patched(pair: int, point: str, places: list, head: int | None) -> torch.Tensor:
            values = caches[donor][pair][point]

            def hook(activation: torch.Tensor, hook) -> torch.Tensor:
                for place in places:
                    to, start = place[side], place[1 - side]
                    if head is None:
                        activation[:, to] = values[:, start]
                    else:
                        activation[:, to, head] = values[:, start, head]
                return activation

            return metric(runs[into][pair], [(point, hook)])

        def places(role: str, pair: int) -> list:
            found = ROLES[role][pair]
            return [] if found is None else list(zip(*found))

        layers, pairs = range(lens.cfg.n_layers), range(len(CLEAN))
        tensors[f"base/{direction}"] = torch.stack([metric(p, []) for p in runs[into]])
        rows = [
            [
                torch.stack([patched(i, f"blocks.{l}.hook_resid_pre", places(r, i), None) for i in pairs])
                for r in ROLES
            ]
            for l in layers
        ]
        tensors[f"resid_pre/{direction}"] = torch.stack([torch.stack(row) for row in rows])
        heads = [
            [
                torch.stack(
                    [
                        patched(i, f"blocks.{l}.attn.hook_z", sum((places(r, i) for r in ROLES), []), h)
                        for i in pairs
                    ]
                )
                for h in range(lens.cfg.n_heads)
            ]
            for l in layers
        ]
        tensors[f"z/{direction}"] = torch.stack([torch.stack(row) for row in heads])

    def answer(prompt: list[int], tokens: list[int], hooks: list) -> torch.Tensor:
        forced = torch.tensor(prompt + tokens[:-1])[None]
        logs = lens.run_with_hooks(forced, fwd_hooks=hooks)[0].log_softmax(-1)
        return sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))

    tensors["answers"] = torch.stack([answer(p, a, []) for p, a in zip(CLEAN, ANSWERS)])
    n = len(CLEAN[0]) + len(ANSWERS[0]) - 1

    def zeroed(layer: int, pos: int) -> torch.Tensor:
        def hook(activation: torch.Tensor, hook) -> torch.Tensor:
            activation[:, pos] = 0
            return activation

        return answer(CLEAN[0], ANSWERS[0], [(f"blocks.{layer}.hook_resid_pre", hook)])

    tensors["answers/resid_pre"] = torch.stack(
        [torch.stack([zeroed(l, p) for p in range(n)]) for l in range(lens.cfg.n_layers)]
    )
    metadata = {
        "clean": CLEAN,
        "corrupted": CORRUPTED,
        "roles": ROLES,
        "tokens": TOKENS,
        "answers": ANSWERS,
        "keys": KEYS,
    }
    return tensors, metadata
