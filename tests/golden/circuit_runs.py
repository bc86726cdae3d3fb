"""The graph of a model's heads and MLPs, and runs of TransformerLens that act on its edges.

Sources write into the residual stream: `input` (the token embedding), heads `a{l}.h{h}` (without
b_O) and MLPs `m{l}`. Receivers read it: a head's queries, keys and values `a{l}.h{h}<q>`, MLPs and
`logits`. Everything else (position embedding, biases) belongs to no edge.

Order of sources: input; by layer the heads, then the MLP. Order of receivers: by layer the queries
of all heads, the keys, the values, the MLP; `logits` last. Edges: by receiver, then by source. So
the table [source, receiver] is that of EAP-IG (github.com/hannamw/EAP-IG), read column by column.
"""

from dataclasses import dataclass

import torch
from transformer_lens import HookedTransformer

from models import Tensors


@dataclass(frozen=True)
class End:
    """A source or a receiver. `time`: when it can first be read, or is read."""

    index: int
    name: str
    hook: str
    head: int | None
    time: int

    def part(self, activation: torch.Tensor) -> torch.Tensor:
        """A view, [batch, pos, d_model]."""
        return activation if self.head is None else activation[:, :, self.head]


class Graph:
    def __init__(self, n_layers: int, n_heads: int):
        self.n_layers, self.n_heads = n_layers, n_heads
        self.sources: list[End] = []
        self.receivers: list[End] = []
        self._source("input", "hook_embed", None, 0)
        for layer in range(n_layers):
            block = f"blocks.{layer}."
            for head in range(n_heads):
                self._source(f"a{layer}.h{head}", block + "attn.hook_result", head, 2 * layer + 1)
            self._source(f"m{layer}", block + "hook_mlp_out", None, 2 * layer + 2)
            for letter in "qkv":
                for head in range(n_heads):
                    name = f"a{layer}.h{head}<{letter}>"
                    self._receiver(name, f"{block}hook_{letter}_input", head, 2 * layer)
            self._receiver(f"m{layer}", block + "hook_mlp_in", None, 2 * layer + 1)
        last = f"blocks.{n_layers - 1}.hook_resid_post"
        self._receiver("logits", last, None, 2 * n_layers)
        self.edges = [
            (u, v) for v in self.receivers for u in self.sources if u.time <= v.time
        ]
        self.names = [f"{u.name}->{v.name}" for u, v in self.edges]
        self.into = [[] for _ in self.receivers]
        for e, (_, v) in enumerate(self.edges):
            self.into[v.index].append(e)

    def _source(self, name: str, hook: str, head: int | None, time: int) -> None:
        self.sources.append(End(len(self.sources), name, hook, head, time))

    def _receiver(self, name: str, hook: str, head: int | None, time: int) -> None:
        self.receivers.append(End(len(self.receivers), name, hook, head, time))

    def source(self, name: str) -> End:
        return next(u for u in self.sources if u.name == name)

    def own_output(self, v: End) -> End | None:
        """What the receiver's component writes; None for `logits`."""
        return None if v.name == "logits" else self.source(v.name.split("<")[0])

    def out_of(self, u: End) -> list[int]:
        return [e for e, (source, _) in enumerate(self.edges) if source is u]

    def of_edges(self, table: torch.Tensor) -> torch.Tensor:
        """[source, receiver, ...] -> [edge, ...]"""
        u = torch.tensor([u.index for u, _ in self.edges])
        v = torch.tensor([v.index for _, v in self.edges])
        return table[u, v]


class Runs:
    """Runs of one model, whose split inputs and per-head results are on."""

    def __init__(self, model: HookedTransformer):
        model.set_use_attn_result(True)
        model.set_use_split_qkv_input(True)
        model.set_use_hook_mlp_in(True)
        self.model = model
        self.graph = Graph(model.cfg.n_layers, model.cfg.n_heads)
        self.sources_at = by_hook(self.graph.sources)
        self.receivers_at = by_hook(self.graph.receivers)

    def run(self, tokens: torch.Tensor, receive=None, send=None) -> tuple[torch.Tensor, list]:
        """Logits [batch, pos, vocab] and each source's output [batch, pos, d_model] in this run.

        `receive(receiver, input, outputs so far)` returns the input to use instead, and
        `send(hook's name, activation)` the activation.
        """
        outputs: list = [None] * len(self.graph.sources)

        def at_source(activation, hook):
            if send is not None:
                activation = send(hook.name, activation)
            for source in self.sources_at[hook.name]:
                outputs[source.index] = source.part(activation)
            return activation

        def at_receiver(activation, hook):
            if receive is None:
                return activation
            activation = activation.clone()
            for receiver in self.receivers_at[hook.name]:
                part = receiver.part(activation)
                part[...] = receive(receiver, part.clone(), outputs)
            return activation

        hooks = [(name, at_source) for name in self.sources_at]
        hooks += [(name, at_receiver) for name in self.receivers_at]
        return self.model.run_with_hooks(tokens, fwd_hooks=hooks), outputs

    def outputs(self, tokens: torch.Tensor) -> torch.Tensor:
        """[source, batch, pos, d_model]"""
        with torch.no_grad():
            return torch.stack(self.run(tokens)[1])

    def gradients_at(self, tokens: torch.Tensor, metric, names, send=None) -> tuple:
        """The metric of one prompt, and by hook point the activation and the metric's gradient."""
        seen: Tensors = {}

        def change(activation, hook):
            return send(hook.name, activation)

        def keep(activation, hook):
            seen[hook.name] = activation

        hooks = [] if send is None else [(name, change) for name in self.sources_at]
        hooks += [(name, keep) for name in names]
        value = metric(self.model.run_with_hooks(tokens[None], fwd_hooks=hooks))[0]
        held = [seen[name] for name in names]
        wanted = [activation for activation in held if activation.requires_grad]
        found = dict(zip(map(id, wanted), torch.autograd.grad(value, wanted, allow_unused=True)))
        gradients = [found.get(id(activation)) for activation in held]
        gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(held, gradients)]
        values = {name: activation.detach() for name, activation in zip(names, held)}
        return value.detach(), values, dict(zip(names, gradients))

    def gradients(self, tokens: torch.Tensor, metric, send=None) -> torch.Tensor:
        """d metric / d input of each receiver, [receiver, pos, d_model]."""
        _, _, by_name = self.gradients_at(tokens, metric, list(self.receivers_at), send)
        return torch.stack([v.part(by_name[v.hook])[0] for v in self.graph.receivers])

    def masked(self, tokens: torch.Tensor, keep: torch.Tensor, ablation) -> torch.Tensor:
        """Logits of runs in which every edge that is not kept carries the source's ablation.

        `tokens` [batch, pos], `keep` [batch or 1, edge], `ablation` [source, batch or 1, pos,
        d_model]; kept edges carry what the source writes in this very run.
        """
        removed = (~keep).to(ablation.dtype)

        def receive(v, x, outputs):
            edges = self.graph.into[v.index]
            if keep[:, edges].all():
                return x
            sources = [self.graph.edges[e][0].index for e in edges]
            change = torch.stack([ablation[u] - outputs[u] for u in sources])
            weights = removed[:, edges].expand(len(x), -1)
            return x + torch.einsum("be,ebpd->bpd", weights, change)

        with torch.no_grad():
            return self.run(tokens, receive)[0]

    def changed_edges(self, tokens: torch.Tensor, v: End, change: torch.Tensor) -> tuple:
        """A run for each edge into `v`, in which `v` alone reads its input plus `change`.

        `tokens` [pos], `change` [edge, pos, d_model]. Logits [edge, pos, vocab], and the change of
        what the receiver's component writes, [edge, pos, d_model] (None for `logits`).
        """

        def receive(receiver, x, outputs):
            return x + change if receiver is v else x

        with torch.no_grad():
            base = self.outputs(tokens[None])
            logits, outputs = self.run(tokens.expand(len(change), -1), receive)
        own = self.graph.own_output(v)
        return logits, None if own is None else outputs[own.index] - base[own.index]


def by_hook(ends: list[End]) -> dict[str, list[End]]:
    found: dict[str, list[End]] = {}
    for end in ends:
        found.setdefault(end.hook, []).append(end)
    return found
