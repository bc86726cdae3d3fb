"""Logit lens, direct logit attribution, head detection, composition and weight circuits.

Computed by TransformerLens in f64 and rounded to f32 at the end.
"""

import itertools

import torch
from transformer_lens import FactoredMatrix, HookedTransformer, head_detector

import models
from models import Spec, Tensors
from processing import folded_model

REPEATING_PROMPT = [4, 9, 21, 4, 9, 33, 9, 21]

KEYS = {
    "p{i}/logit_lens": "[row, pos, vocab], rows: labels.logit_lens. ln_final recomputed on each "
    "residual (with its weight and bias), then W_U",
    "p{i}/dla/components": "[row, pos], rows: labels.dla_components. Direct logit attribution to "
    "a - b (metric_tokens): row centred, divided by the cached ln_final scale, times "
    "ln_final's weight, dot (W_U[:, a] - W_U[:, b])",
    "p{i}/dla/heads": "the same by head (z W_O, without b_O), rows: labels.dla_heads; "
    "remainder = resid_post of the last layer - sum of the heads",
    "p{i}/dla/full": "the same, rows: labels.dla_full; bias = sum of b_O over layers",
    "p{i}/dla/layers": "the same, rows: labels.dla_layers; attention and MLP of a layer together",
    "p{i}/dla/writers": "the same, rows: labels.dla_writers; each layer's heads, b_O, MLP without "
    "its bias, b_out",
    "p{i}/dla/token": "the same rows as dla/components, attribution to token a alone",
    "dla/constant": "ln_final's bias . (W_U[:, a] - W_U[:, b]): with the rows of components, "
    "or of heads, or of full, it adds up to logits[pos, a] - logits[pos, b]",
    "heads/{kind}/{measure}/{excluded}": "[L, H], transformer_lens.head_detector on "
    "repeating_prompt; measure mul or abs (not rounded); excluded: none, bos, current, both",
    "heads/{kind}/detection_pattern": "[dest, src]",
    "composition/{Q,K,V}": "[L, H, L, H], all_composition_scores",
    "circuits/{ov,qk}/dense": "[L, H, d_model, d_model]: W_V W_O, W_Q W_K^T",
    "circuits/{ov,qk,full_ov,full_qk}/singular_values": "[L, H, d_head]",
    "circuits/{ov,qk,full_ov,full_qk}/eigenvalues": "[L, H, d_head, 2]: real and imaginary part, "
    "sorted by real, then imaginary part, both falling",
    "circuits/{full_ov,full_qk}/dense": "[vocab, vocab] of the head full_circuit_head: "
    "W_E W_V W_O W_U, W_E W_Q W_K^T W_E^T",
    "circuits/full_ov/copying_score": "[L, H]: sum of Re / sum of absolute eigenvalues",
}


def analysis_reference(
    spec: Spec, weights: Tensors, prompts: list[list[int]], metric_tokens: tuple[int, int]
) -> tuple[Tensors, dict]:
    lens = models.transformer_lens(spec, weights, torch.float64)
    folded = folded_model(spec, weights)
    out: Tensors = {}
    labels: dict[str, list[str]] = {}
    with torch.no_grad():
        for i, prompt in enumerate(prompts):
            tokens = torch.tensor(prompt)
            one = logit_lens(lens, tokens, labels)
            one |= attribution(folded, tokens, metric_tokens, labels)
            out |= {f"p{i}/{name}": tensor for name, tensor in one.items()}
        a, b = metric_tokens
        out["dla/constant"] = folded.b_U[a] - folded.b_U[b]
        out |= head_detection(lens, torch.tensor(REPEATING_PROMPT))
        out |= {f"composition/{mode}": lens.all_composition_scores(mode) for mode in "QKV"}
        head = (spec.n_layer - 1, 1)
        out |= circuits(lens, head)
    metadata = {
        "labels": labels,
        "repeating_prompt": REPEATING_PROMPT,
        "full_circuit_head": head,
        "keys": KEYS,
    }
    return out, metadata


def logit_lens(model: HookedTransformer, tokens: torch.Tensor, labels: dict) -> Tensors:
    logits, cache = model.run_with_cache(tokens[None], remove_batch_dim=True)
    rows, names = cache.accumulated_resid(incl_mid=True, apply_ln=True, return_labels=True)
    lens = rows @ model.W_U + model.b_U
    torch.testing.assert_close(lens[-1], logits[0], atol=1e-9, rtol=1e-9)
    labels["logit_lens"] = names
    return {"logit_lens": lens}


def attribution(model, tokens: torch.Tensor, metric_tokens, labels: dict) -> Tensors:
    """From the folded model, whose W_U contains ln_final's weight: `logit_attrs` never
    applies that weight itself."""
    a, b = (torch.tensor(token) for token in metric_tokens)
    logits, cache = model.run_with_cache(tokens[None], remove_batch_dim=True)

    def attribute(rows: torch.Tensor, incorrect: torch.Tensor | None = b) -> torch.Tensor:
        return cache.logit_attrs(rows, a, incorrect, has_batch_dim=False)

    components, labels["dla_components"] = cache.decompose_resid(return_labels=True)
    heads, labels["dla_heads"] = cache.stack_head_results(return_labels=True, incl_remainder=True)
    full, labels["dla_full"] = cache.get_full_resid_decomposition(
        expand_neurons=False, return_labels=True
    )
    layers, labels["dla_layers"] = _by_layer(components, model.cfg.n_layers)
    writers, labels["dla_writers"] = _by_writer(model, components, heads)
    out = {"components": components, "heads": heads, "full": full}
    out |= {"layers": layers, "writers": writers}
    out = {name: attribute(rows) for name, rows in out.items()}
    difference = logits[0, :, a] - logits[0, :, b]
    for rows in out.values():
        total = rows.sum(0) + model.b_U[a] - model.b_U[b]
        torch.testing.assert_close(total, difference, atol=1e-5, rtol=1e-5)
    out["token"] = attribute(components, None)
    return {f"dla/{name}": rows for name, rows in out.items()}


def _by_layer(components: torch.Tensor, n_layers: int) -> tuple[torch.Tensor, list[str]]:
    blocks = components[2:].unflatten(0, (n_layers, 2)).sum(1)
    names = ["embed", "pos_embed", *(f"L{layer}" for layer in range(n_layers))]
    return torch.cat([components[:2], blocks]), names


def _by_writer(model: HookedTransformer, components, heads) -> tuple[torch.Tensor, list[str]]:
    """Everything that writes into the residual stream, the biases apart."""
    rows, names = [*components[:2]], ["embed", "pos_embed"]
    count = model.cfg.n_heads
    for layer in range(model.cfg.n_layers):
        of_layer = range(layer * count, (layer + 1) * count)
        mlp_out = components[2 + 2 * layer + 1]
        b_o, b_out = (b[layer].expand_as(mlp_out) for b in (model.b_O, model.b_out))
        rows += [*(heads[i] for i in of_layer), b_o, mlp_out - b_out, b_out]
        names += [f"L{layer}H{i - layer * count}" for i in of_layer]
        names += [f"{layer}_b_O", f"{layer}_neurons", f"{layer}_b_out"]
    return torch.stack(rows), names


# Heads

EXCLUDED = {"none": (False, False), "bos": (True, False), "current": (False, True)}
EXCLUDED["both"] = (True, True)


def head_detection(model: HookedTransformer, tokens: torch.Tensor) -> Tensors:
    model.to_tokens = lambda sequence: sequence[None]  # detect_head wants a tokenizer
    _, cache = model.run_with_cache(tokens[None], remove_batch_dim=True)
    layers = range(model.cfg.n_layers)
    patterns = torch.stack([cache["pattern", layer] for layer in layers])
    out: Tensors = {}
    for kind in head_detector.HEAD_NAMES:
        make = getattr(head_detector, f"get_{kind}_detection_pattern")
        expected = make(tokens[None]).double()
        out[f"heads/{kind}/detection_pattern"] = expected
        for measure, (excluded, flags) in itertools.product(("mul", "abs"), EXCLUDED.items()):
            scores = _detection_scores(patterns, expected, measure, *flags)
            theirs = head_detector.detect_head(
                model,
                tokens,
                kind,
                exclude_bos=flags[0],
                exclude_current_token=flags[1],
                error_measure=measure,
            )
            # TransformerLens rounds "abs" to three digits.
            tolerance = 1e-9 if measure == "mul" else 5.1e-4
            torch.testing.assert_close(scores, theirs, atol=tolerance, rtol=0.0)
            out[f"heads/{kind}/{measure}/{excluded}"] = scores
    return out


def _detection_scores(patterns, expected, measure: str, bos: bool, current: bool) -> torch.Tensor:
    """[L, H] from patterns [L, H, dest, src]: the definition, without rounding."""
    kept = torch.ones_like(expected)
    if bos:
        kept[:, 0] = 0
    if current:
        kept.fill_diagonal_(0)
    if measure == "mul":
        kept = patterns * kept
        return (kept * expected).sum((-2, -1)) / kept.sum((-2, -1))
    return 1 - ((patterns - expected).abs() * kept).sum((-2, -1)) / len(expected)


# Weights


def circuits(model: HookedTransformer, head: tuple[int, int]) -> Tensors:
    factored = {
        "ov": model.OV,
        "qk": model.QK,
        "full_ov": model.W_E @ model.OV @ model.W_U,
        "full_qk": model.W_E @ model.QK @ model.W_E.T,
    }
    out: Tensors = {}
    for name, matrix in factored.items():
        values = _sorted_eigenvalues(matrix)
        out[f"circuits/{name}/singular_values"] = matrix.S
        out[f"circuits/{name}/eigenvalues"] = torch.view_as_real(values)
        full = name.startswith("full_")
        out[f"circuits/{name}/dense"] = matrix.AB[head] if full else matrix.AB
    values = _sorted_eigenvalues(factored["full_ov"])
    out["circuits/full_ov/copying_score"] = values.real.sum(-1) / values.abs().sum(-1)
    return out


def _sorted_eigenvalues(matrix: FactoredMatrix) -> torch.Tensor:
    """[L, H, d_head], complex, by falling real part and then falling imaginary part."""
    values = matrix.eigenvalues
    values = values.gather(-1, values.imag.argsort(dim=-1, descending=True, stable=True))
    return values.gather(-1, values.real.argsort(dim=-1, descending=True, stable=True))
