"""Scores of a circuit's edges and runs of its parts, written from their definitions over
TransformerLens's hooks (`use_attn_result`, `use_split_qkv_input`, `use_hook_mlp_in`), in f64 and
rounded to f32 at the end. The graph and the order of its edges: circuit_runs.py.

With a_u and a'_u what source u writes in the clean and in the corrupted run, D_u = a'_u - a_u, x_v
what receiver v reads, m the metric, g_v = d m / d x_v; dots run over positions and d_model:

    exact/noising     m(clean run in which v alone reads x_v + D_u) - m(clean run)
    exact/denoising   m(corrupted run in which v alone reads x_v - D_u) - m(corrupted run)
    receiver_exact    (change of what v's component writes, exact) . its gradient; for logits, exact
    eap/noising       D_u . g_v(clean run)           (Syed et al. 2023)
    eap/denoising     -D_u . g_v(corrupted run)
    eap_ig/{left,right,midpoint}  D_u . mean g_v over runs of the clean prompt whose token embedding
                      is e' + alpha (e - e'), alpha = k/5, (k+1)/5, (k+1/2)/5 for k = 0..4
                      (Hanna et al. 2024; its paper sums to the right, its code to the left)
    clean_corrupted   D_u . (g_v(clean) + g_v(corrupted)) / 2
    activations/published    D_u . mean over alpha = 1/5 .. 5/5 of g_v in the clean run in which u
                      alone writes a'_u + alpha (a_u - a'_u)
    activations/implemented  D_u . mean of g_v over alpha and over w = input, all heads of a layer,
                      an MLP: w writes a'_w + alpha (a_w - a'_w), as a constant (EAP-IG's code)
    ifr               max(0, |x_v| - |x_v - a_u|) with 1-norms, over its sum over sources (0/0 is
                      0), mean over positions; clean run (Ferrando and Voita 2024, in EAP-IG's code)

So scores are changes of the metric: what the clean run needs is negative under noising.

Circuits: every edge outside carries an ablation of its source, those inside what it writes in this
very run ("tree"); `edge_patch` is the corrupted run in which the edges inside carry a_u (UFO-101's
auto-circuit tells both apart).

Checked while writing: sums over receivers of eap are AtP of the source; sums over receivers of
eap_ig of `input` tend to m(corrupted) - m(clean); no edge kept is the corrupted run and all kept the
clean one; all but one kept is `exact`; an edge into `logits` is the final LayerNorm of the changed
stream; equal prompts score 0; pruning leaves runs with corrupted ablations as they are.

Compared with other programs: see circuit_oracles.py, which is not needed to write the files.
"""

import json

import pandas
import torch
from torch.nn.functional import kl_div

import models
from circuit_nodes import atp_star, attribution
from circuit_runs import Runs
from circuit_search import Acdc, greedy, prune, senders, top_n
from heads import ASSETS, SHIPPED
from models import Spec, Tensors

MODELS = ("tiny-relu", "tiny-gelu", SHIPPED)
STEPS = 5
METRIC_TOKENS = (12, 29)
PAIRS = [
    # Differs at every position.
    ([5, 17, 33, 8, 41, 26], [19, 2, 47, 30, 11, 38]),
    # Shares positions 0, 1, 3 and 5.
    ([6, 24, 10, 35, 44, 13], [6, 24, 49, 35, 21, 13]),
    # Differs in the last position only.
    ([40, 3, 22, 14, 9, 28], [40, 3, 22, 14, 9, 31]),
    ([1, 45, 36, 7, 7, 20], [43, 45, 4, 16, 16, 20]),
]
IOI = "When{A} and{B} went to the{place},{S} gave a{thing} to"
# IO, S, place, thing, order of the names, and the corrupted prompt's three names.
SHIPPED_PAIRS = [
    (" Mary", " John", " store", " drink", "AB", (" Tom", " James", " Dan")),
    (" Alice", " David", " park", " bone", "BA", (" Robert", " Emily", " Sarah")),
    # Only the second name of S is another: that of IO.
    (" Kate", " Peter", " library", " ring", "AB", None),
    (" Paul", " Lisa", " garden", " snack", "BA", None),
]
N_CIRCUITS = 20
# Whose agreement with exact effects is written, too.
COMPARED = (
    "eap/noising",
    "eap_ig/left",
    "clean_corrupted",
    "activations/implemented",
    "receiver_exact/left",
)
TAUS = {"kl": (0.003, 0.02), "logit_diff": (0.02, 0.06)}
SHIPPED_TAUS = {"kl": (0.02, 0.2), "logit_diff": (0.02, 0.2)}

KEYS = {
    "clean, corrupted": "[pair]: the metric of the plain runs",
    "{method}": "[pair, edge], methods as in circuits.py",
    "{method}/by_pos": "[edge, pos], of pair 0: only this position carries the change (tiny models)",
    "kl/{method}": "the same for KL(clean run || run) at the last position, in nats",
    "receiver_exact/{clean, left, denoising}": "[pair, edge]: the gradient at the clean run, as "
    "eap_ig/left, or (the corrupted run is changed) at the corrupted run",
    "circuits/{corrupted, mean, mean_over_pos, zero, edge_patch}": "[circuit, pair]: the metric. "
    "mean: of all corrupted prompts, by position; mean_over_pos: over their positions too",
    "circuits/resample": "[donor, circuit, pair]: edges outside carry what their sources wrote in the "
    "corrupted run of pair `donor`",
    "circuits/kl": "[circuit, pair]: KL(clean run || run), corrupted ablation",
    "atp/{noising, denoising}/{site}": "[pair, layer, pos, (head)] (hook_embed: [pair, pos]; "
    "hook_pattern: [pair, layer, row, head]), summed over the last axis",
    "atp_star/qk_fix/{site}": "[pair, layer, pos, head]: exact change of the pattern . its gradient",
    "atp_star/star/{site}": "[layer, pos, (head)]: mean over pairs of GradDrop's mean of |score|",
    "acdc/{metric}/{tau}[/whole_inputs]/{tried, values, removed}": "[step]: edge, minimised number "
    "without it, 1 if it was removed; tried -1 - r is all edges into receiver r at once. The numbers: "
    "mean over pairs of KL(clean run || run), or of minus the metric",
}


class Pair:
    """Two prompts of a model, their runs, and scores of all edges."""

    def __init__(self, runs: Runs, clean: list[int], corrupted: list[int], tokens: tuple):
        self.runs, self.graph, self.tokens = runs, runs.graph, tokens
        self.clean, self.corrupted = torch.tensor(clean), torch.tensor(corrupted)
        with torch.no_grad():
            self.clean_logits = runs.run(self.clean[None])[0][:, -1]
        self.a, self.b = (runs.outputs(p[None])[:, 0] for p in (self.clean, self.corrupted))
        self.difference = self.b - self.a

    def metric(self, logits: torch.Tensor) -> torch.Tensor:
        """[batch]"""
        right, wrong = self.tokens
        return logits[:, -1, right] - logits[:, -1, wrong]

    def kl(self, logits: torch.Tensor) -> torch.Tensor:
        """[batch], in nats"""
        reference = self.clean_logits.log_softmax(-1)
        run = logits[:, -1].log_softmax(-1)
        return kl_div(run, reference.expand_as(run), reduction="none", log_target=True).sum(-1)

    def plain(self, prompt: torch.Tensor, metric=None) -> torch.Tensor:
        with torch.no_grad():
            return (metric or self.metric)(self.runs.run(prompt[None])[0])[0]

    def dots(self, change: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """[edge]: [source, pos, d_model] . [receiver, pos, d_model]"""
        return self.graph.of_edges(torch.einsum("upd,vpd->uv", change, gradients))

    def dots_by_pos(self, change: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """[edge, pos]"""
        return self.graph.of_edges(torch.einsum("upd,vpd->uvp", change, gradients))

    def embedded(self, alpha: float, metric=None) -> torch.Tensor:
        """Gradients of the clean prompt with its token embedding on the way from the corrupted."""
        return self.written({"hook_embed"}, alpha, metric)

    def written(self, names: set[str], alpha: float, metric=None, head=None) -> torch.Tensor:
        """Gradients of the clean run in which these hook points (or one head) write constants."""
        inputs = self.b + alpha * (self.a - self.b)

        def send(name, activation):
            if name not in names:
                return activation
            new = activation.clone() if head is not None else activation.detach().clone()
            for source in self.runs.sources_at[name]:
                if head is None or source.head == head:
                    source.part(new)[...] = inputs[source.index]
            return new

        return self.runs.gradients(self.clean, metric or self.metric, send)

    def mean_of(self, alphas: list[float], gradients) -> torch.Tensor:
        return torch.stack([gradients(alpha) for alpha in alphas]).mean(0)

    def by_gradients(self) -> Tensors:
        g, g_new = (self.runs.gradients(p, self.metric) for p in (self.clean, self.corrupted))
        steps = {
            "left": [k / STEPS for k in range(STEPS)],
            "right": [(k + 1) / STEPS for k in range(STEPS)],
            "midpoint": [(k + 0.5) / STEPS for k in range(STEPS)],
        }
        out = {
            "eap/noising": self.dots(self.difference, g),
            "eap/denoising": self.dots(-self.difference, g_new),
            "clean_corrupted": self.dots(self.difference, (g + g_new) / 2),
            "activations/published": self.activations_as_published(steps["right"]),
            "activations/implemented": self.activations_as_implemented(steps["right"]),
        }
        for name, alphas in steps.items():
            out[f"eap_ig/{name}"] = self.dots(self.difference, self.mean_of(alphas, self.embedded))
        kl_gradients = self.mean_of(steps["left"], lambda alpha: self.embedded(alpha, self.kl))
        out["kl/eap_ig/left"] = self.dots(self.difference, kl_gradients)
        g_kl = self.runs.gradients(self.corrupted, self.kl)
        out["kl/eap/denoising"] = self.dots(-self.difference, g_kl)
        return out

    def activations_as_published(self, alphas: list[float]) -> torch.Tensor:
        table = torch.zeros(len(self.graph.sources), len(self.graph.receivers), dtype=torch.float64)
        for u in self.graph.sources:
            g = self.mean_of(alphas, lambda alpha: self.written({u.hook}, alpha, head=u.head))
            table[u.index] = torch.einsum("pd,vpd->v", self.difference[u.index], g)
        return self.graph.of_edges(table)

    def activations_as_implemented(self, alphas: list[float]) -> torch.Tensor:
        means = [
            self.mean_of(alphas, lambda alpha: self.written({hook}, alpha))
            for hook in self.runs.sources_at
        ]
        return self.dots(self.difference, torch.stack(means).mean(0))

    def exact(self) -> Tensors:
        """Exact edges both ways for both metrics, and the receiver-exact scores beside them."""
        kinds = {"noising": (self.clean, 1.0), "denoising": (self.corrupted, -1.0)}
        left = [k / STEPS for k in range(STEPS)]
        # By result: which run is changed, the metric, its gradients at the sources' outputs.
        linear = {
            "receiver_exact/clean": ("noising", "", self.output_gradients([1.0])),
            "receiver_exact/left": ("noising", "", self.output_gradients(left)),
            "receiver_exact/denoising": ("denoising", "", self.output_gradients([0.0])),
            "kl/receiver_exact/left": ("noising", "kl/", self.output_gradients(left, self.kl)),
        }
        out = {f"{m}exact/{kind}": [] for kind in kinds for m in ("", "kl/")}
        out |= {name: [] for name in linear}
        for v in self.graph.receivers:
            sources = [self.graph.edges[e][0].index for e in self.graph.into[v.index]]
            for kind, (prompt, sign) in kinds.items():
                change = sign * self.difference[sources]
                logits, written = self.runs.changed_edges(prompt, v, change)
                exact = {
                    "": self.metric(logits) - self.plain(prompt),
                    "kl/": self.kl(logits) - self.plain(prompt, self.kl),
                }
                for m, scores in exact.items():
                    out[f"{m}exact/{kind}"].append(scores)
                for name, (own_kind, m, g) in linear.items():
                    if kind == own_kind:
                        out[name].append(self.onwards(v, written, g, exact[m]))
        return {name: torch.cat(scores) for name, scores in out.items()}

    def onwards(self, v, written, gradients, exact: torch.Tensor) -> torch.Tensor:
        """[edge]: the change of what the receiver's component writes . the gradient there."""
        own = self.graph.own_output(v)
        return exact if own is None else (written * gradients[own.index]).sum((-2, -1))

    def output_gradients(self, alphas: list[float], metric=None) -> torch.Tensor:
        """d m / d what each source writes, [source, pos, d_model], on the way of eap_ig."""
        total = 0.0
        for alpha in alphas:
            embedding = (self.b[0] + alpha * (self.a[0] - self.b[0]))[None]

            def send(name, activation):
                return embedding.requires_grad_() if name == "hook_embed" else activation

            names = list(self.runs.sources_at)
            _, _, g = self.runs.gradients_at(self.clean, metric or self.metric, names, send)
            total = total + torch.stack([u.part(g[u.hook])[0] for u in self.graph.sources])
        return total / len(alphas)

    def by_pos(self) -> Tensors:
        g = self.runs.gradients(self.clean, self.metric)
        own_g = self.output_gradients([1.0])
        columns, linear = [], []
        for p in range(len(self.clean)):
            alone = torch.zeros_like(self.difference)
            alone[:, p] = self.difference[:, p]
            scores, own_scores = [], []
            for v in self.graph.receivers:
                sources = [self.graph.edges[e][0].index for e in self.graph.into[v.index]]
                logits, written = self.runs.changed_edges(self.clean, v, alone[sources])
                scores.append(self.metric(logits) - self.plain(self.clean))
                own_scores.append(self.onwards(v, written, own_g, scores[-1]))
            columns.append(torch.cat(scores))
            linear.append(torch.cat(own_scores))
        return {
            "exact/noising/by_pos": torch.stack(columns, -1),
            "receiver_exact/clean/by_pos": torch.stack(linear, -1),
            "eap/noising/by_pos": self.dots_by_pos(self.difference, g),
        }

    def information_flow(self) -> torch.Tensor:
        read: list = [None] * len(self.graph.receivers)

        def receive(v, x, outputs):
            read[v.index] = x[0]
            return x

        with torch.no_grad():
            self.runs.run(self.clean[None], receive)
        table = torch.zeros(len(self.graph.sources), len(self.graph.receivers), dtype=torch.float64)
        for v, edges in zip(self.graph.receivers, self.graph.into):
            sources = [self.graph.edges[e][0].index for e in edges]
            x = read[v.index]
            near = x.norm(1, -1) - (x - self.a[sources]).norm(1, -1)
            near = near.clamp(min=0)
            table[sources, v.index] = (near / near.sum(0)).nan_to_num(0.0).mean(-1)
        return self.graph.of_edges(table)

    def scores(self) -> Tensors:
        return {"ifr": self.information_flow()} | self.by_gradients() | self.exact()


def circuit_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    runs = Runs(models.transformer_lens(spec, weights, torch.float64))
    pairs = [Pair(runs, *data) for data in pairs_of(spec)]
    scores = [pair.scores() for pair in pairs]
    out = {name: torch.stack([one[name] for one in scores]) for name in scores[0]}
    out["clean"] = torch.stack([pair.plain(pair.clean) for pair in pairs])
    out["corrupted"] = torch.stack([pair.plain(pair.corrupted) for pair in pairs])
    if spec.name != SHIPPED:
        out |= pairs[0].by_pos()
    out |= nodes(runs, pairs)
    masks, tensors = circuits(runs, pairs)
    out |= tensors
    selected = selections(runs, out["eap/noising"].mean(0))
    traces, kept = searches(runs, pairs, SHIPPED_TAUS if spec.name == SHIPPED else TAUS)
    out |= traces
    check(runs, pairs, out, masks)
    graph = runs.graph
    return out, {
        "model": spec.name,
        "pairs": [
            {
                "clean": pair.clean.tolist(),
                "corrupted": pair.corrupted.tolist(),
                "metric_tokens": pair.tokens,
            }
            for pair in pairs
        ],
        "steps": STEPS,
        "sources": " ".join(u.name for u in graph.sources),
        "receivers": " ".join(v.name for v in graph.receivers),
        "edges": [" ".join(graph.names[e] for e in edges) for edges in graph.into],
        "circuits": [bits(mask) for mask in masks],
        "pruned": [bits(prune(graph, mask)) for mask in masks],
        "selected": {name: bits(mask) for name, mask in selected.items()},
        "acdc": {name: bits(mask) for name, mask in kept.items()},
        "agreement": {name: agreement(out, name) for name in COMPARED},
        "acdc_senders": {
            v.name: " ".join(graph.edges[e][0].name for e in senders(graph, v))
            for v in graph.receivers[-2:]
        },
        "keys": KEYS,
    }


def agreement(out: Tensors, method: str) -> dict:
    """How pair 0's scores, rounded to f32, agree with the exact ones; overlap of the n largest."""
    columns = {"found": method, "reference": "exact/noising"}
    columns = {name: out[key][0].float().double().numpy() for name, key in columns.items()}
    table = pandas.DataFrame(columns)
    correlation = lambda table, method: table.corr(method=method).iloc[0, 1]  # noqa: E731
    n = len(table) // 10
    largest = [set(table[c].abs().sort_values(ascending=False, kind="stable").index[:n]) for c in table]
    return {
        "pearson": correlation(table, "pearson"),
        "spearman": correlation(table, "spearman"),
        "spearman_of_sizes": correlation(table.abs(), "spearman"),
        "relative_error": (table.found - table.reference).abs().sum() / table.reference.abs().sum(),
        "n": n,
        "overlap": len(largest[0] & largest[1]) / n,
    }


def pairs_of(spec: Spec) -> list[tuple]:
    if spec.name != SHIPPED:
        return [(clean, corrupted, METRIC_TOKENS) for clean, corrupted in PAIRS]
    vocabulary = json.loads((ASSETS / "tokenizer.json").read_text())["model"]["vocab"]
    out = []
    for io, s, place, thing, order, others in SHIPPED_PAIRS:
        first, second = (io, s) if order == "AB" else (s, io)
        a, b, c = others or (first, second, io)
        words = (place, thing)
        prompts = [sentence(first, second, s, *words), sentence(a, b, c, *words)]
        clean, corrupted = ([vocabulary[word] for word in prompt] for prompt in prompts)
        out.append((clean, corrupted, (vocabulary[io], vocabulary[s])))
    return out


def sentence(a: str, b: str, s: str, place: str, thing: str) -> list[str]:
    start = ["When", a, " and", b, " went", " to", " the", place, ","]
    return start + [s, " gave", " a", thing, " to"]


def bits(mask: torch.Tensor) -> str:
    return "".join("1" if kept else "0" for kept in mask)


def nodes(runs: Runs, pairs: list[Pair]) -> Tensors:
    out: Tensors = {}
    for kind in ("noising", "denoising"):
        prompts = [(p.clean, p.corrupted) if kind == "noising" else (p.corrupted, p.clean) for p in pairs]
        found = [attribution(runs, *two, pair.metric) for two, pair in zip(prompts, pairs)]
        for site in found[0]:
            out[f"atp/{kind}/{site}"] = torch.stack([scores[site] for scores in found])
    two = [(pair.clean, pair.corrupted) for pair in pairs]
    star = atp_star(runs, two, [pair.metric for pair in pairs])
    return out | {f"atp_star/{name}": tensor for name, tensor in star.items()}


def ablations(pairs: list[Pair]) -> dict:
    """By name, for each pair, [source, pos, d_model]."""
    corrupted = torch.stack([pair.b for pair in pairs])
    mean = corrupted.mean(0)
    over_pos = mean.mean(1, keepdim=True).expand_as(mean)
    return {
        "corrupted": list(corrupted),
        "mean": [mean] * len(pairs),
        "mean_over_pos": [over_pos] * len(pairs),
        "zero": [torch.zeros_like(mean)] * len(pairs),
    }


def circuits(runs: Runs, pairs: list[Pair]) -> tuple[torch.Tensor, Tensors]:
    """Random circuits [circuit, edge], of all sizes, and what is left of the metric."""
    generator = torch.Generator().manual_seed(3)
    shares = torch.linspace(0.05, 0.95, N_CIRCUITS)[:, None]
    masks = torch.rand(N_CIRCUITS, len(runs.graph.edges), generator=generator) < shares
    out = {}
    for name, values in ablations(pairs).items():
        logits = [runs.masked(p.clean.expand(N_CIRCUITS, -1), masks, a[:, None]) for p, a in zip(pairs, values)]
        out[f"circuits/{name}"] = torch.stack([p.metric(x) for p, x in zip(pairs, logits)], -1)
        if name == "corrupted":
            out["circuits/kl"] = torch.stack([p.kl(x) for p, x in zip(pairs, logits)], -1)
    patched = [
        pair.metric(runs.masked(pair.corrupted.expand(N_CIRCUITS, -1), ~masks, pair.a[:, None]))
        for pair in pairs
    ]
    out["circuits/edge_patch"] = torch.stack(patched, -1)
    resampled = [
        [p.metric(runs.masked(p.clean.expand(N_CIRCUITS, -1), masks, donor.b[:, None])) for p in pairs]
        for donor in pairs
    ]
    out["circuits/resample"] = torch.stack([torch.stack(row, -1) for row in resampled])
    return masks, out


def selections(runs: Runs, scores: torch.Tensor) -> dict:
    """Of the mean of eap/noising. Usefulness: minus the score, or its absolute value."""
    graph = runs.graph
    out = {}
    for share in (0.1, 0.3):
        n = int(share * len(graph.edges))
        for name, useful in {"signed": -scores, "absolute": scores.abs()}.items():
            out[f"top_n/{name}/{n}"] = top_n(graph, useful, n)
            out[f"greedy/{name}/{n}"] = greedy(graph, useful, n)
    return out


def searches(runs: Runs, pairs: list[Pair], taus: dict) -> tuple[Tensors, dict]:
    tokens = torch.stack([pair.clean for pair in pairs])
    ablation = torch.stack([pair.b for pair in pairs], 1)

    def by_pair(logits, metric):
        return torch.stack([metric(p, logits[i : i + 1])[0] for i, p in enumerate(pairs)]).mean()

    minimised = {
        "kl": lambda logits: by_pair(logits, Pair.kl),
        "logit_diff": lambda logits: -by_pair(logits, Pair.metric),
    }
    out, kept = {}, {}
    for name, function in minimised.items():
        for tau in taus[name]:
            for whole in (False, True):
                search = Acdc(runs, tokens, ablation, function)
                trace = search.search(tau, whole)
                assert search.margin > 1e-5, f"{name}, {tau}: a decision by {search.margin}"
                key = f"{name}/{tau}" + ("/whole_inputs" if whole else "")
                kept[key] = trace.pop("kept")
                out |= {f"acdc/{key}/{k}": t for k, t in trace.items()}
    return out, kept


# Checks


def close(found: torch.Tensor, expected: torch.Tensor, what: str, rtol=1e-9) -> None:
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * scale, msg=what)


def check(runs: Runs, pairs: list[Pair], out: Tensors, masks: torch.Tensor) -> None:
    for kind in ("noising", "denoising"):
        check_nodes(runs, out, kind)
    for i, pair in enumerate(pairs):
        check_completeness(runs, pair)
        check_masks(runs, pair, out["exact/noising"][i], masks)
        check_logits(runs, pair, out["exact/noising"][i])
    same = Pair(runs, pairs[0].clean.tolist(), pairs[0].clean.tolist(), pairs[0].tokens)
    for name, scores in same.scores().items():
        assert name == "ifr" or scores.abs().max() < 1e-10, f"{name} of equal prompts"


def check_nodes(runs: Runs, out: Tensors, kind: str) -> None:
    """Sums over receivers are attribution patching of the source."""
    for u in runs.graph.sources:
        atp = out[f"atp/{kind}/{u.hook.split('.', 2)[-1]}"]
        if u.name != "input":
            atp = atp[:, int(u.hook.split(".")[1])]
        expected = (atp if u.head is None else atp[..., u.head]).sum(1)
        found = out[f"eap/{kind}"][:, runs.graph.out_of(u)].sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def check_completeness(runs: Runs, pair: Pair) -> None:
    steps = 100
    alphas = [(k + 0.5) / steps for k in range(steps)]
    scores = pair.dots(pair.difference, pair.mean_of(alphas, pair.embedded))
    total = scores[runs.graph.out_of(runs.graph.sources[0])].sum()
    expected = pair.plain(pair.corrupted) - pair.plain(pair.clean)
    # relu has kinks, where a rule of midpoints is less exact.
    torch.testing.assert_close(total, expected, rtol=3e-2, atol=3e-2)


def check_masks(runs: Runs, pair: Pair, exact: torch.Tensor, masks: torch.Tensor) -> None:
    n = len(runs.graph.edges)
    ends = torch.stack([torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)])
    run = lambda keep: pair.metric(runs.masked(pair.clean.expand(len(keep), -1), keep, pair.b[:, None]))  # noqa: E731
    plain = [pair.plain(pair.corrupted), pair.plain(pair.clean)]
    close(run(ends), torch.stack(plain), "nothing and everything kept")
    close(run(~torch.eye(n, dtype=torch.bool)) - plain[1], exact, "all but one edge kept", 1e-8)
    pruned = torch.stack([prune(runs.graph, mask) for mask in masks])
    close(run(pruned), run(masks), "pruned")


def check_logits(runs: Runs, pair: Pair, exact: torch.Tensor) -> None:
    model, edges = runs.model, runs.graph.into[-1]
    sources = [runs.graph.edges[e][0].index for e in edges]
    with torch.no_grad():
        _, cache = model.run_with_cache(pair.clean[None])
        stream = cache["resid_post", model.cfg.n_layers - 1] + pair.difference[sources]
        found = pair.metric(model.unembed(model.ln_final(stream)))
    close(found - pair.plain(pair.clean), exact[edges], "edges into the logits", 1e-8)
