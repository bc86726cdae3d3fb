"""Circuits from scores, as EAP-IG selects them, and from ACDC (Conmy et al. 2023, algorithm 1).

ACDC visits receivers from the last to the first: logits; by layer, last first, the MLP, then values,
keys, queries, of heads last first. Senders of a receiver: by layer, last first, the MLP, then the
heads, first first; `input` last (the ACDC repository's `names_mode` normal, `indices_mode` reverse).
An edge is removed if that raises the minimised number by less than tau. A receiver whose component
has no edge left towards the logits loses its own edges without a run. With `whole_inputs`, all edges
into a head's values (keys, queries) are first tried at once, heads last first, before the single
edges of that layer's heads: the repository's edges from `hook_v_input` to `hook_v`.
"""

import torch

from circuit_runs import Graph, Runs


def prune(graph: Graph, keep: torch.Tensor) -> torch.Tensor:
    """Without what is not on a path from `input` to `logits`, for a component with no edge into any
    of its inputs and one with no edge out of it, until nothing changes."""
    keep = keep.clone()
    while True:
        before = keep.clone()
        for u in graph.sources[1:]:
            inward = [e for e, (_, v) in enumerate(graph.edges) if graph.own_output(v) is u]
            outward = graph.out_of(u)
            if not keep[inward].any() or not keep[outward].any():
                keep[inward + outward] = False
        if torch.equal(keep, before):
            return keep


def top_n(graph: Graph, scores: torch.Tensor, n: int) -> torch.Tensor:
    keep = torch.zeros(len(graph.edges), dtype=torch.bool)
    keep[scores.argsort(descending=True, stable=True)[:n]] = True
    return keep


def greedy(graph: Graph, scores: torch.Tensor, n: int) -> torch.Tensor:
    """Best first from the logits; a component's first edge offers the edges into all its inputs."""
    keep = torch.zeros(len(graph.edges), dtype=torch.bool)
    offered = list(graph.into[-1])
    inside = set()
    for _ in range(n):
        best = max(offered, key=lambda e: (scores[e].item(), -e))
        offered.remove(best)
        keep[best] = True
        u = graph.edges[best][0]
        if u.index not in inside:
            inside.add(u.index)
            offered += [e for e, (_, v) in enumerate(graph.edges) if graph.own_output(v) is u]
    return keep


def visits(graph: Graph) -> list[list]:
    """Receivers in the order of their visit, in groups whose members are tried whole first."""
    by_name = {v.name: v for v in graph.receivers}
    groups = [[by_name["logits"]]]
    for layer in reversed(range(graph.n_layers)):
        groups.append([by_name[f"m{layer}"]])
        heads = reversed(range(graph.n_heads))
        names = [[f"a{layer}.h{head}<{letter}>" for letter in "vkq"] for head in heads]
        groups.append([by_name[name] for letter in zip(*names) for name in letter])
    return groups


def senders(graph: Graph, v) -> list[int]:
    """Edges into `v` in the order in which they are tried."""

    def latest_first(e: int) -> tuple:
        name = graph.edges[e][0].name
        if name == "input":
            return (1, 0, 0)
        layer, _, head = name[1:].partition(".h")
        return (-int(layer), bool(head), int(head or 0))

    return sorted(graph.into[v.index], key=latest_first)


class Acdc:
    """`minimised(logits)` is one number; `pairs`: tokens [batch, pos], outputs of the new runs."""

    def __init__(self, runs: Runs, tokens: torch.Tensor, ablation: torch.Tensor, minimised):
        self.runs, self.graph = runs, runs.graph
        self.tokens, self.ablation, self.minimised = tokens, ablation, minimised
        self.keep = torch.ones(len(self.graph.edges), dtype=torch.bool)

    def value(self, keep: torch.Tensor) -> float:
        return self.minimised(self.runs.masked(self.tokens, keep[None], self.ablation)).item()

    def search(self, tau: float, whole_inputs: bool) -> dict:
        self.tried, self.values, self.removed, self.margin = [], [], [], float("inf")
        self.tau, self.current = tau, self.value(self.keep)
        for group in visits(self.graph):
            if whole_inputs and len(group) > 1:
                for v in filter(self.connected, group):
                    self.attempt(self.graph.into[v.index], -1 - v.index)
            for v in group:
                if self.connected(v):
                    for e in senders(self.graph, v):
                        if self.keep[e]:
                            self.attempt([e], e)
                else:
                    self.keep[self.graph.into[v.index]] = False
        return {
            "tried": torch.tensor(self.tried),
            "values": torch.tensor(self.values),
            "removed": torch.tensor(self.removed),
            "kept": self.keep,
        }

    def connected(self, v) -> bool:
        own = self.graph.own_output(v)
        return own is None or bool(self.keep[self.graph.out_of(own)].any())

    def attempt(self, edges: list[int], label: int) -> None:
        keep = self.keep.clone()
        keep[edges] = False
        value = self.value(keep)
        rise = value - self.current
        self.margin = min(self.margin, abs(rise - self.tau))
        remove = rise < self.tau
        self.tried.append(label)
        self.values.append(value)
        self.removed.append(remove)
        if remove:
            self.keep, self.current = keep, value
