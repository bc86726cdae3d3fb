"""Activations, losses and gradients at every hook point, from TransformerLens.

TransformerLens gates some hook points behind flags that exclude each other, so three
runs are made of the same prompt: "base" (per-head results and `hook_mlp_in` on), "split"
(`use_split_qkv_input`, for hook_{q,k,v}_input only) and "attn_in" (`use_attn_in`, for
hook_attn_in only). All three give the same logits, which is asserted.

TransformerLens applies ln1 three times (for queries, keys and values), so `ln1.hook_scale`
and `ln1.hook_normalized` fire three times with the same value. The gradient stored here is
the sum over the three: that of a LayerNorm computed once and used three times.
"""

import torch
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel

from models import Spec, Tensors, checkpoint_name, to_hugging_face_layout

BLOCK_HOOKS = [
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "hook_attn_out",
    "hook_resid_mid",
    "hook_mlp_in",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]
GLOBAL_HOOKS = [
    "hook_embed",
    "hook_pos_embed",
    "ln_final.hook_scale",
    "ln_final.hook_normalized",
    "unembed.hook_out",
]
SPLIT_HOOKS = ["hook_q_input", "hook_k_input", "hook_v_input"]
ATTN_IN_HOOKS = ["hook_attn_in"]


def hook_names(model: HookedTransformer, per_block: list[str], others: list[str] = ()) -> list[str]:
    blocks = range(model.cfg.n_layers)
    return [*others, *(f"blocks.{i}.{hook}" for i in blocks for hook in per_block)]


def set_flags(model: HookedTransformer, *, base=False, split=False, attn_in=False) -> None:
    model.set_use_attn_result(base)
    model.set_use_hook_mlp_in(base)
    model.set_use_split_qkv_input(split)
    model.set_use_attn_in(attn_in)


def logit_difference(logits: torch.Tensor, tokens: tuple[int, int]) -> torch.Tensor:
    """logits[-1, a] - logits[-1, b], the mean over the batch. `logits`: [batch, pos, vocab]."""
    a, b = tokens
    return (logits[:, -1, a] - logits[:, -1, b]).mean()


def losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Next-token loss at each position but the last, [pos - 1]. Inputs without a batch axis."""
    log_probs = logits[:-1].log_softmax(-1)
    return -log_probs.gather(-1, tokens[1:, None])[:, 0]


def run_at(model: HookedTransformer, tokens: torch.Tensor, names: list[str], metric) -> tuple:
    """Logits, activations at `names` and the gradient of the metric there, without batch axis."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(activation: torch.Tensor, hook) -> None:
        activation.retain_grad()
        seen[hook.name].append(activation)

    model.zero_grad()
    logits = model.run_with_hooks(tokens[None], fwd_hooks=[(name, keep) for name in names])
    metric(logits).backward()
    for name, fired in seen.items():
        assert len(fired) == (3 if ".ln1." in name else 1), f"{name} fires {len(fired)} times"
        assert all(torch.equal(activation, fired[0]) for activation in fired), name
    values = {name: fired[0][0].detach().clone() for name, fired in seen.items()}
    gradients = {name: sum(x.grad[0] for x in fired) for name, fired in seen.items()}
    return logits[0].detach(), values, gradients


def activations_and_gradients(model, tokens: torch.Tensor, metric) -> tuple:
    """`run_at` for all hook points, over the three runs (see above)."""
    set_flags(model, base=True)
    names = hook_names(model, BLOCK_HOOKS, GLOBAL_HOOKS)
    logits, values, gradients = run_at(model, tokens, names, metric)
    _check_against_backward_hooks(model, tokens, metric, gradients)
    for flag, hooks in [("split", SPLIT_HOOKS), ("attn_in", ATTN_IN_HOOKS)]:
        set_flags(model, **{flag: True})
        more = run_at(model, tokens, hook_names(model, hooks), metric)
        torch.testing.assert_close(more[0], logits, atol=1e-5, rtol=1e-5)
        values |= more[1]
        gradients |= more[2]
    set_flags(model)
    return logits, values, gradients


def _check_against_backward_hooks(model, tokens, metric, gradients: Tensors) -> None:
    """Retained gradients are what TransformerLens' own backward hooks see."""
    seen: Tensors = {}

    def keep(gradient: torch.Tensor, hook) -> None:
        seen[hook.name] = seen.get(hook.name, 0) + gradient[0].detach()

    with model.hooks(bwd_hooks=[(name, keep) for name in gradients]):
        metric(model(tokens[None])).backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(seen[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def parameter_gradients(spec: Spec, hf: GPT2LMHeadModel, lens, tokens: torch.Tensor) -> Tensors:
    """Gradient of the mean next-token loss, under this checkpoint's names and in its layout.

    From Hugging Face, checked against TransformerLens. With tied embeddings `wte.weight`
    holds the sum of both uses.
    """
    hf.zero_grad()
    losses(hf(tokens[None]).logits[0], tokens).mean().backward()
    out = {n.removeprefix("transformer."): p.grad.clone() for n, p in hf.named_parameters()}

    lens.zero_grad()
    losses(lens(tokens[None])[0], tokens).mean().backward()
    lens_grads = {name: p.grad for name, p in lens.named_parameters()}
    expected = to_hugging_face_layout(spec, lens_grads)
    del expected["lm_head.bias"]  # TransformerLens' b_U: GPT-2 has none
    if spec.tie_word_embeddings:
        expected["wte.weight"] = expected["wte.weight"] + expected.pop("lm_head.weight")
    assert out.keys() == expected.keys(), out.keys() ^ expected.keys()
    for name in out:
        torch.testing.assert_close(out[name], expected[name], atol=1e-5, rtol=1e-4, msg=name)
    return {checkpoint_name(spec, name): grad for name, grad in out.items()}


def prompt_reference(spec, hf, lenses, tokens: torch.Tensor, metric_tokens) -> tuple:
    """Everything stored under `p{i}/`, and how far f32 is from f64.

    `lenses`: the model in f32 and in f64. Gradients at hook points are those in f64, rounded: at
    a LayerNorm's scale large terms cancel, and f32 alone is off by 9e-6 of the tensor's scale.
    """
    lens, lens64 = lenses

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logit_difference(logits, metric_tokens)

    logits, values, gradients = activations_and_gradients(lens, tokens, metric)
    hf_logits = hf(tokens[None]).logits[0].detach()
    torch.testing.assert_close(logits, hf_logits, atol=1e-5, rtol=1e-5)
    per_token = losses(logits, tokens)
    torch.testing.assert_close(
        per_token.mean(), lens(tokens[None], return_type="loss").detach(), atol=1e-5, rtol=1e-5
    )
    out = {"logits": logits, "loss": per_token.mean(), "loss_per_token": per_token}
    out |= {"metric": metric(logits[None])}
    out |= values
    _, values64, gradients64 = activations_and_gradients(lens64, tokens, metric)
    out |= {f"grad/{name}": gradient.float() for name, gradient in gradients64.items()}
    param_grads = parameter_gradients(spec, hf, lens, tokens)
    out |= {f"param_grad/{name}": gradient for name, gradient in param_grads.items()}
    errors = {
        "activations": rounding_error(values, values64),
        "gradients": rounding_error(gradients, gradients64),
    }
    return out, errors


def rounding_error(rounded: Tensors, exact: Tensors) -> float:
    """Largest absolute difference of values in f32 from those of the same run in f64."""
    errors = [
        (tensor - rounded[name].double()).nan_to_num(0.0).abs().max()
        for name, tensor in exact.items()
    ]
    return float(f"{max(errors).item():.1e}")
