"""Causal tracing (Meng et al. 2022) and knock-outs (Wang et al. 2022), over TransformerLens hooks.

Written from the papers' definitions, with one full run for every cell and sample. Computed in
f64 and rounded to f32 at the end.
"""

import torch
from transformer_lens import HookedTransformer

import models
from models import Spec, Tensors

MODELS = ("tiny-gelu-new", "tiny-gelu")
FACTS = [
    {"prompt": [7, 31, 2, 45, 18, 31, 9], "subject": [1, 4]},
    {"prompt": [40, 3, 22, 14], "subject": [0, 1]},
    # The subject ends the prompt.
    {"prompt": [11, 5, 8, 27], "subject": [2, 4]},
]
SAMPLES = 3
SITES = {"state": "hook_resid_post", "mlp": "hook_mlp_out", "attn": "hook_attn_out"}
# Name: what is restored, over how many layers, and what is severed.
TABLES = {
    "state": ("state", 1, None),
    "mlp_window2": ("mlp", 2, None),
    "attn_window2": ("attn", 2, None),
    "attn_window1": ("attn", 1, None),
    # Clipped at both ends; only for models with as many layers.
    "mlp_window3": ("mlp", 3, None),
    "attn_window3": ("attn", 3, None),
    "state_severed_mlp": ("state", 1, "mlp"),
    "state_severed_attn": ("state", 1, "attn"),
    "mlp_window2_severed_attn": ("mlp", 2, "attn"),
    "mlp_window1_severed_mlp": ("mlp", 1, "mlp"),
}

KNOCK_OUT = {
    "prompts": [[5, 17, 33, 8, 41], [9, 2, 33, 8, 12], [6, 24, 10, 35]],
    "templates": [0, 0, 1],
    "counterfactual": [[1, 2, 33, 8, 3], [4, 7, 33, 8, 6], [30, 10, 33, 8, 11],
                       [13, 24, 10, 15], [16, 24, 10, 18]],
    "counterfactual_templates": [0, 0, 0, 1, 1],
    # For resampling: the counterfactual prompt of each prompt.
    "resampled_from": [1, 2, 3],
    "classes": {"early": [[0, 1], [1], [0]], "end": [[4], [4], [3]]},
}
# Sets of [layer, head or None for the MLP, class or None for every position].
SETS = [
    [[0, 1, None]],
    [[1, 0, "end"]],
    [[0, None, "early"]],
    [[0, 0, "early"], [0, 1, "early"], [1, 2, None], [1, None, "end"]],
]
CIRCUIT = [[0, 0, "early"], [0, 2, None], [1, 0, "end"], [1, 1, "end"], [1, 1, "early"]]
SUBSETS = [[0], [1, 3], [2, 3, 4], [0, 1, 2, 3, 4]]

KEYS = {
    "fact{i}/noise": "[sample, subject token, d_model], added to the token embeddings",
    "fact{i}/clean": "probability of the clean run's likeliest next token",
    "fact{i}/corrupted": "[sample], the same token's probability with the noise",
    "fact{i}/{table}": "[token, layer, sample], its probability with that restored",
    "fact{i}/embedding": "[d_model], all subject tokens become it: fact{i}/embedding_state",
    "fact{i}/subjects_state": "[token, layer, sample], the subject's tokens t replaced by "
    "(t + 1 + sample) % 40 in 2 samples",
    "noise_std": "three times the standard deviation of all subjects' embeddings",
    "knock_out/{method}": "[set, prompt], the metric with that set knocked out",
    "circuit/{mean, mean_with_mlps}": "[prompt], the metric with all but the circuit knocked out",
    "circuit/empty": "[prompt], the metric with all heads knocked out",
    "circuit/full_without, circuit/circuit_without": "[subset], mean metric of the model and of "
    "the circuit without that subset",
    "circuit/minimality": "[node, subset or none, 2], mean metric of the circuit without the "
    "subset (less the node itself), and also without the node; the first subset is empty",
}


def tracing_reference(spec: Spec, weights: Tensors, metric_tokens) -> tuple[Tensors, dict]:
    model = models.transformer_lens(spec, weights, torch.float64)
    out: Tensors = {}
    with torch.no_grad():
        subjects = [fact["prompt"][slice(*fact["subject"])] for fact in FACTS]
        out["noise_std"] = 3 * model.W_E[torch.tensor(sum(subjects, []))].std()
        for i, fact in enumerate(FACTS):
            one = trace_fact(model, fact, out["noise_std"], torch.Generator().manual_seed(i))
            out |= {f"fact{i}/{name}": tensor for name, tensor in one.items()}
        out |= knock_outs(model, metric_tokens)
        out |= circuit_scores(model, metric_tokens)
    described = {
        "facts": FACTS,
        "tables": {name: list(table) for name, table in tables_of(spec.n_layer).items()},
        "knock_out": KNOCK_OUT,
        "sets": SETS,
        "circuit": CIRCUIT,
        "subsets": SUBSETS,
        "metric_tokens": metric_tokens,
        "keys": KEYS,
    }
    return out, described


# Causal tracing


def tables_of(n_layers: int) -> dict:
    return {name: table for name, table in TABLES.items() if table[1] <= n_layers}


def window(layer: int, width: int, n_layers: int) -> list[int]:
    """max(0, l - w // 2) up to, not including, min(N, l + ceil(w / 2))."""
    return list(range(max(0, layer - width // 2), min(n_layers, layer + (width + 1) // 2)))


def trace_fact(model: HookedTransformer, fact: dict, std, generator) -> Tensors:
    tokens = torch.tensor(fact["prompt"])
    begin, end = fact["subject"]
    shape = (SAMPLES, end - begin, model.cfg.d_model)
    # Rounded to f32, as the file holds it.
    noise = torch.randn(shape, generator=generator) * std.float()
    logits, clean = model.run_with_cache(tokens[None])
    answer = logits[0, -1].argmax()
    out = {"noise": noise, "clean": logits[0, -1].softmax(-1)[answer]}

    def add_noise(embed, hook):
        embed[:, begin:end] += noise.double()
        return embed

    batch = tokens.repeat(SAMPLES, 1)
    corrupt = ("hook_embed", add_noise)
    out["corrupted"], _ = corrupted_run(model, batch, [corrupt], answer)
    for name, table in tables_of(model.cfg.n_layers).items():
        out[name] = trace_table(model, (batch, [corrupt]), clean, answer, table)

    out["embedding"] = torch.randn(model.cfg.d_model, generator=generator) * std.float()

    def set_embedding(embed, hook):
        embed[:, begin:end] = out["embedding"].double()
        return embed

    run = (tokens[None], [("hook_embed", set_embedding)])
    out["embedding_state"] = trace_table(model, run, clean, answer, TABLES["state"])
    replaced = tokens.repeat(2, 1)
    for sample in range(2):
        replaced[sample, begin:end] = (tokens[begin:end] + 1 + sample) % 40
    out["subjects_state"] = trace_table(model, (replaced, []), clean, answer, TABLES["state"])
    return out


def corrupted_run(model, batch, hooks, answer):
    with model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(batch)
    return logits[:, -1].softmax(-1)[:, answer], cache


def trace_table(model, corrupted, clean, answer, table) -> torch.Tensor:
    """[token, layer, sample]"""
    batch, hooks = corrupted
    restored, width, severed = table
    _, frozen = corrupted_run(model, batch, hooks, answer)
    n_layers = model.cfg.n_layers
    rows = []
    for token in range(batch.shape[1]):
        for layer in range(n_layers):
            layers = window(layer, width, n_layers)
            cell = [
                (f"blocks.{l}.{SITES[restored]}", put_back(token, clean)) for l in layers
            ]
            if severed:
                later = [l for l in range(min(layers) + 1, n_layers)]
                if severed == restored:
                    later = [l for l in later if l not in layers]
                elif restored == "mlp":
                    # Attention of the first restored layer comes before its MLP.
                    assert severed == "attn"
                cell += [
                    (f"blocks.{l}.{SITES[severed]}", put_back(token, frozen)) for l in later
                ]
            logits = model.run_with_hooks(batch, fwd_hooks=hooks + cell)
            rows.append(logits[:, -1].softmax(-1)[:, answer])
    return torch.stack(rows).reshape(batch.shape[1], n_layers, -1)


def put_back(token: int, cache):
    def hook_fn(activation, hook):
        activation[:, token] = cache[hook.name][:, token]
        return activation

    return hook_fn


# Knock-out


def replacements(model, method: str) -> list[dict]:
    """By prompt: hook name to what replaces its activation, [pos, ...]."""
    study = KNOCK_OUT
    names = [f"blocks.{l}.{site}" for l in range(model.cfg.n_layers)
             for site in ("attn.hook_z", "hook_mlp_out")]
    caches = [model.run_with_cache(torch.tensor([p]))[1] for p in study["counterfactual"]]
    found = []
    for i, template in enumerate(study["templates"]):
        if method == "resample":
            donors = [study["resampled_from"][i]]
        else:
            of = study["counterfactual_templates"]
            donors = [j for j, other in enumerate(of) if other == template]
        means = {n: torch.stack([caches[j][n][0] for j in donors]).mean(0) for n in names}
        zero = {n: torch.zeros_like(value) for n, value in means.items()}
        found.append(zero if method == "zero" else means)
    return found


def metric_without(model, metric_tokens, prompt: int, places: set, values: dict) -> torch.Tensor:
    """The metric of a prompt with (layer, head or None, position) in `places` replaced."""
    hooks = []
    for layer, head, position in sorted(places, key=str):
        site = "hook_mlp_out" if head is None else "attn.hook_z"
        index = (0, position) if head is None else (0, position, head)

        def replace(activation, hook, index=index):
            activation[index] = values[hook.name][index[1:]]
            return activation

        hooks.append((f"blocks.{layer}.{site}", replace))
    tokens = torch.tensor([KNOCK_OUT["prompts"][prompt]])
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    a, b = metric_tokens
    return logits[0, -1, a] - logits[0, -1, b]


def places_of(nodes: list, prompt: int) -> set:
    every = range(len(KNOCK_OUT["prompts"][prompt]))
    return {
        (layer, head, position)
        for layer, head, name in nodes
        for position in (KNOCK_OUT["classes"][name][prompt] if name else every)
    }


def all_places(model, prompt: int, mlps: bool) -> set:
    heads = [*range(model.cfg.n_heads)] + ([None] if mlps else [])
    nodes = [[layer, head, None] for layer in range(model.cfg.n_layers) for head in heads]
    return places_of(nodes, prompt)


def knock_outs(model, metric_tokens) -> Tensors:
    out = {}
    prompts = range(len(KNOCK_OUT["prompts"]))
    for method in ("zero", "mean", "resample"):
        values = replacements(model, method)
        out[f"knock_out/{method}"] = torch.stack([
            torch.stack([
                metric_without(model, metric_tokens, i, places_of(nodes, i), values[i])
                for i in prompts
            ])
            for nodes in SETS
        ])
    return out


def circuit_scores(model, metric_tokens) -> Tensors:
    prompts = range(len(KNOCK_OUT["prompts"]))
    values = replacements(model, "mean")

    def circuit(nodes: list, mlps: bool = False) -> torch.Tensor:
        """[prompt]: all but these nodes knocked out."""
        gone = [all_places(model, i, mlps) - places_of(nodes, i) for i in prompts]
        return torch.stack(
            [metric_without(model, metric_tokens, i, gone[i], values[i]) for i in prompts]
        )

    def full_without(nodes: list) -> torch.Tensor:
        return torch.stack([
            metric_without(model, metric_tokens, i, places_of(nodes, i), values[i])
            for i in prompts
        ])

    def without(subset) -> list:
        return [node for i, node in enumerate(CIRCUIT) if i not in subset]

    out = {
        "circuit/mean": circuit(CIRCUIT),
        "circuit/mean_with_mlps": circuit(CIRCUIT, mlps=True),
        "circuit/empty": circuit([]),
    }
    chosen = [[CIRCUIT[i] for i in subset] for subset in SUBSETS]
    out["circuit/full_without"] = torch.stack([full_without(k).mean() for k in chosen])
    out["circuit/circuit_without"] = torch.stack([circuit(without(s)).mean() for s in SUBSETS])
    minimality = []
    for v in range(len(CIRCUIT)):
        for subset in [[]] + SUBSETS:
            rest = [i for i in subset if i != v]
            minimality += [circuit(without(rest)).mean(), circuit(without(rest + [v])).mean()]
    shape = (len(CIRCUIT), len(SUBSETS) + 1, 2)
    out["circuit/minimality"] = torch.stack(minimality).reshape(shape)
    return out
