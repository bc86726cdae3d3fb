"""Path patching (Wang et al. 2022, "Interpretability in the Wild", appendix B), written from its
definition over TransformerLens's hooks, in f64 and rounded to f32 at the end.

A: run on the new prompt. B: run on the original prompt. C: run on the original prompt with the
output z of every head frozen to B, except the sender's, which is A's; MLPs and LayerNorms are
recomputed (variant `recomputed`) or the MLPs' outputs frozen to B as well (variant `frozen`).
D: run on the original prompt with the receivers' inputs set to what they were in C.

Keys of paths.safetensors; a set of receivers reads `q1.2` (the queries of head 2 in layer 1),
`k..`, `v..`, `mlp1`, `final` (the residual stream after the last block), joined by `+`; `@3` after
the set restricts it to position 3.

    pair{i}/original, pair{i}/new            the metric of the runs B and A
    pair{i}/{variant}/{set}/exact            [sender]: the metric of D, all positions sent
    pair{i}/{variant}/{set}/linear           [sender]: the metric of B, plus its gradient at the
                                             receivers' inputs . (inputs in C - inputs in B)
    pair{i}/{variant}/{set}/exact_by_pos     [pos, sender]: one position sent
    pair{i}/{variant}/{set}/sets             [2]: all heads and the embedding sent; all heads
    path/{set}                               [sender]: 1 where the graph has a path, else 0

Senders in order: the token embedding, then for each layer its heads and its MLP.
"""

import re

import torch
from transformer_lens import HookedTransformer

import models
from models import Spec, Tensors
from reference import logit_difference

MODELS = ("tiny-gelu-new", "tiny-gelu")
VARIANTS = ("recomputed", "frozen")


def receiver_sets(spec: Spec) -> list[str]:
    last = spec.n_layer - 1
    return [
        f"q{last}.1",
        f"k{last}.0",
        f"v{last}.2",
        f"q{last}.0+k{last}.0+v{last - 1}.1+v{last}.1",
        "q0.1",
        f"mlp{last}",
        f"k{last}.2+final",
        "final",
        "final@5",
    ]


def senders(spec: Spec) -> list[tuple]:
    nodes: list[tuple] = [("embed",)]
    for layer in range(spec.n_layer):
        nodes += [("head", layer, head) for head in range(spec.n_head)]
        nodes.append(("mlp", layer))
    return nodes


class Receiver:
    """A hook point, the part of it that is received, and when it is read."""

    def __init__(self, name: str, spec: Spec):
        self.head = slice(None)
        if name == "final":
            self.hook, self.time = f"blocks.{spec.n_layer - 1}.hook_resid_post", 2 * spec.n_layer
        elif name.startswith("mlp"):
            layer = int(name[3:])
            self.hook, self.time = f"blocks.{layer}.hook_mlp_in", 2 * layer + 1
        else:
            reader, layer, head = re.fullmatch(r"([qkv])(\d+)\.(\d+)", name).groups()
            self.hook, self.head = f"blocks.{layer}.hook_{reader}_input", int(head)
            self.time = 2 * int(layer)

    def part(self, activation: torch.Tensor, positions: slice) -> torch.Tensor:
        """A view without batch axis."""
        activation = activation[0, positions]
        return activation if activation.ndim == 2 else activation[:, self.head]


def time_of(sender: tuple) -> int:
    """The first time at which its output can be read: 2l attention of layer l, 2l + 1 its MLP."""
    if sender[0] == "embed":
        return 0
    return 2 * sender[1] + (1 if sender[0] == "head" else 2)


class Study:
    """One pair of prompts and one set of receivers."""

    def __init__(self, model: HookedTransformer, spec: Spec, pair, metric, receivers: str):
        self.model, self.spec, self.metric = model, spec, metric
        self.original, self.new = (torch.tensor(prompt)[None] for prompt in pair)
        names, _, position = receivers.partition("@")
        self.positions = slice(int(position), int(position) + 1) if position else slice(None)
        self.receivers = [Receiver(name, spec) for name in names.split("+")]
        _, self.a = model.run_with_cache(self.new)
        _, self.b = model.run_with_cache(self.original)
        self.gradients = self.gradients_of_b()

    def gradients_of_b(self) -> Tensors:
        seen = {}

        def keep(activation, hook):
            activation.retain_grad()
            seen[hook.name] = activation

        hooks = [(name, keep) for name in {r.hook for r in self.receivers}]
        with torch.enable_grad():
            self.metric(self.model.run_with_hooks(self.original, fwd_hooks=hooks)).backward()
        return {name: activation.grad for name, activation in seen.items()}

    def run_c(self, sent: list[tuple], positions: slice, variant: str) -> Tensors:
        """The receivers' inputs."""
        saved: Tensors = {}

        def freeze_heads(z, hook):
            z = self.b[hook.name].clone()
            for sender in sent:
                if sender[0] == "head" and sender[1] == hook.layer():
                    z[:, positions, sender[2]] = self.a[hook.name][:, positions, sender[2]]
            return z

        def mlp_out(out, hook):
            if variant == "frozen":
                out = self.b[hook.name].clone()
            if ("mlp", hook.layer()) in sent:
                out[:, positions] = self.a[hook.name][:, positions]
            return out

        def embed(out, hook):
            if ("embed",) in sent:
                out[:, positions] = self.a[hook.name][:, positions]
            return out

        def save(activation, hook):
            saved[hook.name] = activation.clone()

        hooks = [("hook_embed", embed)]
        for layer in range(self.spec.n_layer):
            hooks.append((f"blocks.{layer}.attn.hook_z", freeze_heads))
            hooks.append((f"blocks.{layer}.hook_mlp_out", mlp_out))
        hooks += [(name, save) for name in {r.hook for r in self.receivers}]
        self.model.run_with_hooks(self.original, fwd_hooks=hooks)
        return saved

    def run_d(self, saved: Tensors) -> torch.Tensor:
        def receive(activation, hook):
            for receiver in self.receivers:
                if receiver.hook == hook.name:
                    value = receiver.part(saved[hook.name], self.positions)
                    receiver.part(activation, self.positions)[...] = value
            return activation

        hooks = [(name, receive) for name in {r.hook for r in self.receivers}]
        return self.metric(self.model.run_with_hooks(self.original, fwd_hooks=hooks))

    def linear(self, saved: Tensors) -> torch.Tensor:
        total = self.metric(self.model(self.original))
        for r in self.receivers:
            delta = r.part(saved[r.hook] - self.b[r.hook], self.positions)
            total = total + (r.part(self.gradients[r.hook], self.positions) * delta).sum()
        return total

    def paths(self) -> torch.Tensor:
        latest = max(receiver.time for receiver in self.receivers)
        return torch.tensor([float(time_of(sender) <= latest) for sender in senders(self.spec)])


def study_reference(study: Study, variant: str, by_pos: bool) -> Tensors:
    everywhere = slice(None)
    nodes = senders(study.spec)
    saved = [study.run_c([sender], everywhere, variant) for sender in nodes]
    out = {
        "exact": torch.stack([study.run_d(inputs) for inputs in saved]),
        "linear": torch.stack([study.linear(inputs) for inputs in saved]),
    }
    base = study.metric(study.model(study.original))
    silent = study.paths() == 0
    torch.testing.assert_close(out["exact"][silent], base.expand(int(silent.sum())))
    heads = [sender for sender in nodes if sender[0] == "head"]
    sets = [[("embed",), *heads], heads]
    out["sets"] = torch.stack([study.run_d(study.run_c(s, everywhere, variant)) for s in sets])
    if by_pos:
        n = study.original.shape[1]
        one = lambda p, s: study.run_d(study.run_c([s], slice(p, p + 1), variant))
        rows = [torch.stack([one(p, sender) for sender in nodes]) for p in range(n)]
        out["exact_by_pos"] = torch.stack(rows)
    return out


def path_reference(spec: Spec, weights: Tensors, pairs: list[tuple], metric_tokens) -> Tensors:
    model = models.transformer_lens(spec, weights, torch.float64)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    metric = lambda logits: logit_difference(logits, metric_tokens)
    out: Tensors = {}
    with torch.no_grad():
        for i, pair in enumerate(pairs):
            for receivers in receiver_sets(spec):
                study = Study(model, spec, pair, metric, receivers)
                out[f"pair{i}/original"] = metric(model(study.original))
                out[f"pair{i}/new"] = metric(model(study.new))
                out[f"path/{receivers}"] = study.paths()
                for variant in VARIANTS:
                    by_pos = i == 1 and variant == "recomputed" and receivers[0] in "vf"
                    one = study_reference(study, variant, by_pos)
                    out |= {f"pair{i}/{variant}/{receivers}/{k}": t for k, t in one.items()}
    return out
