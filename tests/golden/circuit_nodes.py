"""Attribution patching of nodes: AtP, and AtP* (Kramár et al. 2024, arXiv 2403.00745).

AtP: (new - base) . d metric / d base, summed over the last axis. AtP* adds, for a head's queries
and keys, the exact change of its pattern ("QK fix", section 3.1), and GradDrop (section 3.2): the
mean over layers of |score| with the gradient through what that layer writes left out.
"""

import torch

from circuit_runs import Runs
from models import Tensors

BLOCK_SITES = [
    "hook_resid_pre",
    "hook_q_input",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]
# Nodes of AtP*: the queries and keys by the QK fix.
STAR_SITES = ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_result", "hook_mlp_out"]
QK = ("attn.hook_q", "attn.hook_k")
WRITES = ("hook_attn_out", "hook_mlp_out")


def block_hooks(runs: Runs, site: str) -> list[str]:
    return [f"blocks.{layer}.{site}" for layer in range(runs.model.cfg.n_layers)]


def by_node(activation: torch.Tensor, site: str) -> torch.Tensor:
    """[1, ...] -> [pos, (head,) values]: patterns are stored by head first."""
    return activation[0].transpose(0, 1) if site == "attn.hook_pattern" else activation[0]


def attribution(runs: Runs, base: torch.Tensor, new: torch.Tensor, metric) -> Tensors:
    """By site, [layer, pos, (head)], and `hook_embed` [pos]; of patterns, [layer, row, head]."""
    hooks = {site: block_hooks(runs, site) for site in BLOCK_SITES} | {"hook_embed": ["hook_embed"]}
    names = sum(hooks.values(), [])
    _, here, gradients = runs.gradients_at(base, metric, names)
    _, there, _ = runs.gradients_at(new, metric, names)
    out = {}
    for site, layers in hooks.items():
        products = [(there[name] - here[name]) * gradients[name] for name in layers]
        scores = torch.stack([by_node(product, site).sum(-1) for product in products])
        out[site] = scores[0] if site == "hook_embed" else scores
    return out


def pattern_of(scores: torch.Tensor) -> torch.Tensor:
    """Causal softmax of [..., pos, pos]."""
    n = scores.shape[-1]
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def query_fix(runs: Runs, layer: int, here: Tensors, there: Tensors, gradient) -> torch.Tensor:
    """[pos, head]: each query's row of the pattern from its new query."""
    block = f"blocks.{layer}.attn."
    k = here[block + "hook_k"][0]
    queries = (here[block + "hook_q"][0], there[block + "hook_q"][0])
    scale = runs.model.blocks[layer].attn.attn_scale
    old, new = (pattern_of(torch.einsum("ihd,jhd->hij", q, k) / scale) for q in queries)
    torch.testing.assert_close(old, here[block + "hook_pattern"][0])
    return ((new - old) * gradient[0]).sum(-1).T


def key_fix(runs: Runs, layer: int, here: Tensors, there: Tensors, gradient) -> torch.Tensor:
    """[pos, head]: all later rows of the pattern from one new key."""
    block = f"blocks.{layer}.attn."
    q, k = here[block + "hook_q"][0], here[block + "hook_k"][0]
    scale = runs.model.blocks[layer].attn.attn_scale
    old = here[block + "hook_pattern"][0]
    out = []
    for t in range(len(k)):
        changed = k.clone()
        changed[t] = there[block + "hook_k"][0, t]
        new = pattern_of(torch.einsum("ihd,jhd->hij", q, changed) / scale)
        out.append(((new - old) * gradient[0]).sum((-2, -1)))
    found = torch.stack(out)
    torch.testing.assert_close(found, key_fix_in_closed_form(runs, layer, here, there, gradient))
    return found


def key_fix_in_closed_form(runs: Runs, layer: int, here, there, gradient) -> torch.Tensor:
    """The same from the softmax's change in one entry: p_t and the mean gradient of the others."""
    block = f"blocks.{layer}.attn."
    q, p, g = here[block + "hook_q"][0], here[block + "hook_pattern"][0], gradient[0]
    change = there[block + "hook_k"][0] - here[block + "hook_k"][0]
    scale = runs.model.blocks[layer].attn.attn_scale
    raised = p * torch.exp(torch.einsum("ihd,thd->hit", q, change) / scale)
    new = raised / (1 - p + raised)
    others = ((p * g).sum(-1, keepdim=True) - p * g) / (1 - p).clamp(min=1e-300)
    alone = p >= 1  # The first row has no other entry: its pattern stays.
    by_row = torch.where(alone, 0.0, (new - p) * (g - others))
    return by_row.tril().sum(-2).T


def star_scores(runs: Runs, base, new, metric, dropped: int | None) -> Tensors:
    """By site [layer, pos, (head)], signed; the gradient through layer `dropped`'s writes left out."""
    names = [f"blocks.{i}.{site}" for i in range(runs.model.cfg.n_layers) for site in STAR_SITES]
    names += block_hooks(runs, "attn.hook_pattern")
    writes = [f"blocks.{dropped}.{site}" for site in WRITES]
    handles = [(name, lambda x, hook: x.detach()) for name in writes if dropped is not None]
    with runs.model.hooks(fwd_hooks=handles):
        _, here, gradients = runs.gradients_at(base, metric, names)
    _, there, _ = runs.gradients_at(new, metric, names)
    out = {}
    for site in STAR_SITES:
        layers = []
        for layer in range(runs.model.cfg.n_layers):
            name = f"blocks.{layer}.{site}"
            pattern = gradients[f"blocks.{layer}.attn.hook_pattern"]
            if site == "attn.hook_q":
                score = query_fix(runs, layer, here, there, pattern)
            elif site == "attn.hook_k":
                score = key_fix(runs, layer, here, there, pattern)
            else:
                score = ((there[name] - here[name]) * gradients[name])[0].sum(-1)
            layers.append(score)
        out[site] = torch.stack(layers)
    return out


def atp_star(runs: Runs, pairs: list[tuple], metrics: list) -> Tensors:
    """`qk_fix/{site}` [pair, layer, pos, head], `star/{site}` [layer, pos, (head)]."""
    out: Tensors = {}
    plain = [star_scores(runs, *pair, metric, None) for pair, metric in zip(pairs, metrics)]
    for site in QK:
        out[f"qk_fix/{site}"] = torch.stack([scores[site] for scores in plain])
    n_layers = runs.model.cfg.n_layers
    for site in STAR_SITES:
        out[f"star/{site}"] = 0.0
    for pair, metric in zip(pairs, metrics):
        for dropped in range(n_layers):
            scores = star_scores(runs, *pair, metric, dropped)
            for site in STAR_SITES:
                assert not scores[site][dropped].any(), "a layer's own nodes get nothing"
                share = scores[site].abs() / ((n_layers - 1) * len(pairs))
                out[f"star/{site}"] = out[f"star/{site}"] + share
    return out
