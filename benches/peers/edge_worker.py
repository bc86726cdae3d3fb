"""Does TransformerLens's side of the comparison of effects of edges, as worker.py does for runs:
exact effects by a hook at the receiver's split input, EAP and EAP-IG by the same formulae in torch.
`circuits.py` drives it.
"""

import copy
import time

import torch

from worker import TransformerLens, serve


class Edges(TransformerLens):
    def __init__(self, setup: dict):
        with torch.no_grad():
            super().__init__(setup)
        from circuit_runs import Graph, by_hook

        self.model.requires_grad_(False)
        self.graph = Graph(self.model.cfg.n_layers, self.model.cfg.n_heads)
        self.sources_at = by_hook(self.graph.sources)
        self.receivers_at = by_hook(self.graph.receivers)
        self.clean_cache = None

    def run(self, work: str, cells: list[int] | None) -> dict:
        if work.startswith("edges"):
            corrupted = self.everywhere if work.endswith("everywhere") else self.late
            return self.exact(corrupted, cells)
        steps = {"eap": [1.0], "eap_ig_5": [k / 5 for k in range(5)]}[work]
        return self.estimate(steps)

    def split(self, results: bool, inputs: bool, mlps: bool) -> None:
        """What is asked of the model: each costs time."""
        self.model.set_use_attn_result(results)
        self.model.set_use_split_qkv_input(inputs)
        self.model.set_use_hook_mlp_in(mlps)

    def differences(self, clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
        """[source, batch, pos, d_model]"""
        self.split(True, False, False)
        names = list(self.sources_at)

        def outputs(tokens):
            _, cache = self.model.run_with_cache(tokens, names_filter=names)
            return torch.stack([u.part(cache[u.hook]) for u in self.graph.sources])

        with torch.no_grad():
            return outputs(corrupted) - outputs(clean)

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        """[batch]"""
        a, b = self.metric_tokens
        return logits[:, -1, a] - logits[:, -1, b]

    def exact(self, corrupted: torch.Tensor, cells: list[int]) -> dict:
        """The effects on the first pair; all pairs are run."""
        start = time.perf_counter()
        with torch.no_grad():
            change = self.differences(self.clean, corrupted)
            base = self.last(self.model(self.clean))
            cached = time.perf_counter()
            values = [self.edge(self.clean, *self.graph.edges[e], change) - base for e in cells]
        end = time.perf_counter()
        return {
            "seconds": end - start,
            "fixed_seconds": cached - start,
            "cell_seconds": (end - cached) / len(cells),
            "values": [value[0].item() for value in values],
            "in_double": self.in_double(corrupted[:1], cells),
        }

    def in_double(self, corrupted: torch.Tensor, cells: list[int]) -> list[float]:
        """The same effects in float64, which tell rounding from mistakes. Not timed."""
        clean, single = self.clean[:1], self.model
        self.model = copy.deepcopy(single).double()
        with torch.no_grad():
            change = self.differences(clean, corrupted)
            base = self.last(self.model(clean))
            effects = [self.edge(clean, *self.graph.edges[e], change) - base for e in cells]
        self.model = single
        return [effect.item() for effect in effects]

    def edge(self, clean: torch.Tensor, u, v, change: torch.Tensor) -> torch.Tensor:
        self.split(False, v.head is not None, v.hook.endswith("hook_mlp_in"))

        def add(activation, hook):
            part = v.part(activation)
            part += change[u.index]
            return activation

        return self.last(self.model.run_with_hooks(clean, fwd_hooks=[(v.hook, add)]))

    def estimate(self, alphas: list[float]) -> dict:
        """The mean scores of all edges."""
        start = time.perf_counter()
        change = self.differences(self.clean, self.everywhere)
        with torch.no_grad():
            clean, corrupted = (self.model.embed(t) for t in (self.clean, self.everywhere))
        self.split(False, True, True)
        sums: dict[str, torch.Tensor] = {}
        for alpha in alphas:
            for name, gradient in self.gradients(corrupted + alpha * (clean - corrupted)).items():
                sums[name] = sums[name] + gradient if name in sums else gradient
        flat = change.flatten(1)
        table = torch.zeros(len(self.graph.sources), len(self.graph.receivers))
        for name, receivers in self.receivers_at.items():
            parts = torch.stack([v.part(sums[name]).flatten() for v in receivers])
            n = len(self.graph.into[receivers[0].index])
            columns = slice(receivers[0].index, receivers[-1].index + 1)
            table[:n, columns] = flat[:n] @ parts.T
        scores = self.graph.of_edges(table) / (len(alphas) * len(self.clean))
        return {"seconds": time.perf_counter() - start, "values": scores.tolist()}

    def gradients(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}

        def embed(activation, hook):
            return embedding.detach().requires_grad_()

        def keep(activation, hook):
            seen[hook.name] = activation

        hooks = [("hook_embed", embed)] + [(name, keep) for name in self.receivers_at]
        value = self.last(self.model.run_with_hooks(self.clean, fwd_hooks=hooks)).sum()
        return dict(zip(seen, torch.autograd.grad(value, list(seen.values()))))


if __name__ == "__main__":
    serve(Edges)
