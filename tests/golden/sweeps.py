"""Every sweep of `transformer_lens.patching`, on two prompt pairs.

`denoising` patches clean into corrupted, as TransformerLens does; `noising` is the same
with the two runs exchanged.
"""

import torch
from transformer_lens import HookedTransformer, patching

from models import Tensors
from reference import logit_difference

SWEEPS = sorted(name for name in dir(patching) if name.startswith("get_act_patch_"))
assert len(SWEEPS) == 18, SWEEPS


def sweep_all(model: HookedTransformer, base, source, metric) -> Tensors:
    """All sweeps that patch the source run's activations into the base run."""
    _, cache = model.run_with_cache(source)
    return {name: getattr(patching, name)(model, base, cache, metric) for name in SWEEPS}


def sweep_reference(model, clean: torch.Tensor, corrupted: torch.Tensor, metric_tokens) -> Tensors:
    """Sweeps, metrics and last-position logits for a batch of pairs ([batch, pos] each)."""

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logit_difference(logits, metric_tokens)

    with torch.no_grad():
        out = {
            "clean_metric": metric(model(clean)),
            "corrupted_metric": metric(model(corrupted)),
        }
        denoising = sweep_all(model, corrupted, clean, metric)
        noising = sweep_all(model, clean, corrupted, metric)
    out |= {f"patching/{name}": table for name, table in denoising.items()}
    return out | {f"noising/{name}": table for name, table in noising.items()}


def all_sweeps(model: HookedTransformer, pairs: list[tuple], metric_tokens) -> Tensors:
    """Per pair under `pair{i}/`, and for the batch of both under `mean/`."""
    clean = torch.tensor([pair[0] for pair in pairs])
    corrupted = torch.tensor([pair[1] for pair in pairs])
    out: Tensors = {}
    for i in range(len(pairs)):
        one = sweep_reference(model, clean[i : i + 1], corrupted[i : i + 1], metric_tokens)
        out |= {f"pair{i}/{name}": tensor for name, tensor in one.items()}
    mean = sweep_reference(model, clean, corrupted, metric_tokens)
    for name, tensor in mean.items():
        expected = torch.stack([out[f"pair{i}/{name}"] for i in range(len(pairs))]).mean(0)
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-5, msg=name)
    return out | {f"mean/{name}": tensor for name, tensor in mean.items()}
