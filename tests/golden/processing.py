"""TransformerLens' weight processing, one step after the other.

The steps are cumulative and in TransformerLens' order. They run in f64 (its
`process_weights` truncates to f32) and the results are rounded to f32 once, at the end; the
last step is checked against `load_and_process_state_dict`.
"""

import torch
from transformer_lens import HookedTransformer
from transformer_lens.weight_processing import ProcessWeights

import models
from models import Spec, Tensors

KEYS = {
    "{step}/weights/{name}": "parameters after this step and those before it, but only those that "
    "differ from the previous step's (the first step has all). Canonical names (no prefix) "
    "and layout: Conv1D weights [in, out], lm_head.weight [vocab, d_model], lm_head.bias [vocab]. After "
    "fold_ln there are no LayerNorm parameters: weight 1, bias 0",
    "{step}/p{i}/logits": "[pos, vocab], of the model after this step",
}

STEPS = {
    "fold_ln": lambda state, cfg: ProcessWeights.fold_layer_norm(state, cfg),
    "center_writing_weights": lambda state, cfg: ProcessWeights.center_writing_weights(state, cfg),
    "center_unembed": lambda state, cfg: ProcessWeights.center_unembed(state),
    "fold_value_biases": lambda state, cfg: ProcessWeights.fold_value_biases(state, cfg),
}


def processed_states(spec: Spec, weights: Tensors) -> dict[str, Tensors]:
    """TransformerLens state dicts in f64 after each step, without LayerNorm parameters."""
    cfg = models.transformer_lens(spec, weights, torch.float64).cfg
    state = {n: t.double() for n, t in models.to_lens_layout(spec, weights).items()}
    states = {}
    for name, step in STEPS.items():
        state = step({n: t.clone() for n, t in state.items()}, cfg)
        assert all(t.dtype == torch.float64 for t in state.values())
        states[name] = {n: t for n, t in state.items() if not _is_layer_norm(n)}
    return states


def _is_layer_norm(name: str) -> bool:
    return any(f"{norm}." in name for norm in ("ln1", "ln2", "ln_final"))


def folded_model(spec: Spec, weights: Tensors) -> HookedTransformer:
    """f64, with LayerNorm folded and nothing else changed: the residual stream is the same."""
    state = processed_states(spec, weights)["fold_ln"]
    return models.lens_from_state(spec, state, torch.float64, "LNPre")


def processing_reference(spec: Spec, weights: Tensors, prompts: list[list[int]]) -> Tensors:
    out: Tensors = {}
    plain = models.transformer_lens(spec, weights, torch.float64)
    previous: Tensors = {}
    states = processed_states(spec, weights)
    for step, state in states.items():
        model = models.lens_from_state(spec, state, torch.float64, "LNPre")
        for i, prompt in enumerate(prompts):
            logits = model(torch.tensor([prompt]))[0].detach()
            _check_same_predictions(logits, plain(torch.tensor([prompt]))[0].detach(), step)
            out[f"{step}/p{i}/logits"] = logits
        current = models.to_hugging_face_layout(spec, state)
        changed = {n: t for n, t in current.items() if not _equal(t, previous.get(n))}
        out |= {f"{step}/weights/{name}": tensor for name, tensor in changed.items()}
        previous = current
    _check_against_load_and_process(spec, weights, states["fold_value_biases"])
    return out


def _equal(tensor: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and torch.equal(tensor.float(), other.float())


def _check_same_predictions(logits: torch.Tensor, plain: torch.Tensor, step: str) -> None:
    """No step changes probabilities; the first two do not change logits either."""
    if step in ("fold_ln", "center_writing_weights"):
        torch.testing.assert_close(logits, plain, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        logits.log_softmax(-1), plain.log_softmax(-1), atol=1e-9, rtol=1e-9
    )


def _check_against_load_and_process(spec: Spec, weights: Tensors, state: Tensors) -> None:
    model = models.transformer_lens(spec, weights)
    model.load_and_process_state_dict(models.to_lens_layout(spec, weights))
    processed = model.state_dict()
    for name, tensor in state.items():
        torch.testing.assert_close(
            processed[name], tensor.float(), atol=1e-5, rtol=1e-5, msg=name
        )
