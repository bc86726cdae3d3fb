"""States of one run put into another, by TransformerLens hooks, one full run each, in f64:
patchscopes (Ghandeharioun et al. 2024), interchange interventions with a map of positions (Geiger
et al. 2021, 2024), and single neurons."""

import torch
from transformer_lens import HookedTransformer

import models
from models import Spec, Tensors

MODELS = ["tiny-gelu", "mini"]
# The two prompts of a pair differ in length.
BASES = [[7, 31, 2, 45, 18, 31, 9], [40, 3, 22, 14]]
SOURCES = [[5, 12, 44, 8, 3], [9, 9, 30, 27, 1, 16]]
# By pair: the position that patchscopes read of the source, and the one that they write.
READ, WRITE = [4, 2], [2, 3]
NEW_TOKENS = 3
# How many tokens of the vocabulary are kept.
COLUMNS = 50
METRIC_TOKENS = [7, 11]
# By pair: (source, base) positions.
MAPS = {
    "end": [[(4, 6)], [(5, 3)]],
    "two": [[(0, 1), (2, 4)], [(1, 0), (3, 2)]],
    "crossed": [[(3, 1), (0, 5)], [(5, 0), (2, 3)]],
}
SITES = ["hook_resid_post", "mlp.hook_post", "attn.hook_z"]
PARTS = ["whole", "columns", "inside", "outside", "half"]
PART_COLUMNS = [0, 3]
RANK = 2
# Of one length: source and base of the sweep over single columns.
NEURON_PAIR = [[7, 30, 2, 44, 18], [7, 31, 2, 45, 18]]

KEYS = {
    "patchscopes/{i}/next": f"[source layer, target layer, token], the first {COLUMNS} probabilities",
    "patchscopes/{i}/new": "[source layer, target layer, step], tokens that are generated greedily",
    "across/{i}/...": "the same from a model whose first two blocks have changed places",
    "basis/{site}": "[d, k], an orthonormal basis of the last axis",
    "interchange/{site}/{part}": "[map, layer, pair], the logit difference at the end",
    "columns/{site}": "[layer, column] or [layer, head, column], the same with one column patched",
}


def last_row(lens: HookedTransformer, tokens: list[int], hooks: list) -> torch.Tensor:
    return lens.run_with_hooks(torch.tensor(tokens)[None], fwd_hooks=hooks)[0, -1]


def states(lens: HookedTransformer, tokens: list[int]):
    return lens.run_with_cache(torch.tensor(tokens)[None])[1]


def patchscopes(source: HookedTransformer, lens: HookedTransformer, prefix: str) -> Tensors:
    tensors: Tensors = {}
    layers = [source.cfg.n_layers, lens.cfg.n_layers]
    for i, (base, tokens) in enumerate(zip(BASES, SOURCES)):
        cache = states(source, tokens)
        following = torch.zeros(*layers, COLUMNS, dtype=torch.float64)
        new = torch.zeros(*layers, NEW_TOKENS)
        for read in range(layers[0]):
            state = cache[f"blocks.{read}.hook_resid_post"][0, READ[i]]

            def write(resid: torch.Tensor, hook) -> torch.Tensor:
                resid[:, WRITE[i]] = state
                return resid

            for layer in range(layers[1]):
                hooks = [(f"blocks.{layer}.hook_resid_post", write)]
                text = list(base)
                for step in range(NEW_TOKENS):
                    row = last_row(lens, text, hooks)
                    if step == 0:
                        following[read, layer] = row.softmax(-1)[:COLUMNS]
                    text.append(int(row.argmax()))
                    new[read, layer, step] = text[-1]
        tensors |= {f"{prefix}/{i}/next": following, f"{prefix}/{i}/new": new}
    return tensors


def orthonormal(width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    vectors = torch.randn(width, RANK, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(vectors).Q.float()


def changed(h: torch.Tensor, source: torch.Tensor, part: str, basis: torch.Tensor) -> torch.Tensor:
    """Rows of which a part is exchanged."""
    projection = basis.double() @ basis.double().T
    if part == "columns":
        new = h.clone()
        new[..., PART_COLUMNS] = source[..., PART_COLUMNS]
        return new
    if part == "whole":
        return source
    difference = source - h
    inside = difference @ projection
    return h + {"inside": inside, "outside": difference - inside, "half": 0.5 * inside}[part]


def difference_of(row: torch.Tensor) -> torch.Tensor:
    return row[METRIC_TOKENS[0]] - row[METRIC_TOKENS[1]]


def interchange(lens: HookedTransformer) -> Tensors:
    tensors: Tensors = {}
    n_layers = lens.cfg.n_layers
    caches = [states(lens, tokens) for tokens in SOURCES]
    for site in SITES:
        basis = orthonormal(caches[0][f"blocks.0.{site}"].shape[-1])
        tensors[f"basis/{site}"] = basis
        for part in PARTS:
            table = torch.zeros(len(MAPS), n_layers, len(BASES), dtype=torch.float64)
            for m, by_pair in enumerate(MAPS.values()):
                for layer in range(n_layers):
                    name = f"blocks.{layer}.{site}"
                    for i, base in enumerate(BASES):
                        from_to = by_pair[i]

                        def exchange(h: torch.Tensor, hook) -> torch.Tensor:
                            for source, to in from_to:
                                own = caches[i][name][0, source]
                                h[0, to] = changed(h[0, to], own, part, basis)
                            return h

                        row = last_row(lens, base, [(name, exchange)])
                        table[m, layer, i] = difference_of(row)
            tensors[f"interchange/{site}/{part}"] = table
    return tensors


def columns(lens: HookedTransformer) -> Tensors:
    tensors: Tensors = {}
    source, base = NEURON_PAIR
    cache = states(lens, source)
    for site in ["mlp.hook_post", "attn.hook_z"]:
        shape = cache[f"blocks.0.{site}"].shape[2:]
        table = torch.zeros(lens.cfg.n_layers, *shape, dtype=torch.float64)
        for layer in range(lens.cfg.n_layers):
            name = f"blocks.{layer}.{site}"
            for place in torch.cartesian_prod(*[torch.arange(n) for n in shape]).reshape(
                -1, len(shape)
            ):
                at = (slice(None), slice(None), *place.tolist())

                def patch(h: torch.Tensor, hook) -> torch.Tensor:
                    h[at] = cache[name][at]
                    return h

                table[(layer, *place.tolist())] = difference_of(last_row(lens, base, [(name, patch)]))
        tensors[f"columns/{site}"] = table
    return tensors


def swapped(spec: Spec, weights: Tensors) -> HookedTransformer:
    """Another model of the same width: the first two blocks have changed places."""

    def other(name: str) -> str:
        for a, b in [("h.0.", "h.1."), ("h.1.", "h.0.")]:
            if name.startswith(a):
                return b + name.removeprefix(a)
        return name

    return models.transformer_lens(
        spec, {name: weights[other(name)] for name in weights}, torch.float64
    )


def metadata() -> dict:
    return {
        "bases": BASES,
        "sources": SOURCES,
        "read": READ,
        "write": WRITE,
        "new_tokens": NEW_TOKENS,
        "metric_tokens": METRIC_TOKENS,
        "maps": list(MAPS.items()),
        "sites": SITES,
        "parts": PARTS,
        "part_columns": PART_COLUMNS,
        "neuron_pair": NEURON_PAIR,
        "keys": KEYS,
    }


def states_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    with torch.no_grad():
        lens = models.transformer_lens(spec, weights, torch.float64)
        tensors = patchscopes(lens, lens, "patchscopes")
        tensors |= patchscopes(swapped(spec, weights), lens, "across")
        tensors |= interchange(lens) | columns(lens)
    return tensors, metadata()
