"""Writes toys/: small random models of kinds that GPT-2 is not, as TransformerLens has them.

    .venv/bin/python tests/golden/toys.py       # or: --out DIR

Each variant has a folder with

    cfg.json               TransformerLens's config: what a HookedTransformerConfig says, as JSON
    model.safetensors      its state dict, under its own names (masks too, in one of them)
    reference.safetensors  activations, gradients, two patching sweeps; keys as below

    p{i}/{hook}            activation of prompt i at that hook point
    p{i}/logits            [pos, d_vocab_out]
    p{i}/grad/{hook}       d (logits[-1, 2] - logits[-1, 5]) / d activation, in f64, summed over
                           the calls of a hook
    p{i}/param_grad/{name} d mean next-token loss / d parameter, in f64, TransformerLens's layout
    patching/resid_pre     [layer, pos]: the metric with prompt 0's stream patched into CORRUPTED
    patching/z             [layer, head]: the same with one head's z at all positions

Weights are random; nothing is downloaded.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

PROMPTS = [[3, 1, 6, 1, 4], [5, 0, 2]]
CORRUPTED = [3, 6, 0, 1, 5]
TOKENS = (2, 5)

COMMON = dict(
    n_layers=2, d_model=8, n_ctx=6, d_head=4, n_heads=2, d_vocab=9, device="cpu", init_weights=False
)
ATTENTION_ONLY = dict(attn_only=True, act_fn=None)

VARIANTS = {
    # The model of ARENA's chapter 1.2.
    "attn-only-shortformer": dict(
        **ATTENTION_ONLY, normalization_type=None, positional_embedding_type="shortformer"
    ),
    "attn-only-ln": dict(**ATTENTION_ONLY, normalization_type="LN") | dict(d_head=3),
    "ln-pre-gelu": dict(act_fn="gelu", d_mlp=10, normalization_type="LNPre"),
    # As compiled by Tracr, but causal: other tokens at the output.
    "relu-no-ln": dict(act_fn="relu", d_mlp=10, normalization_type=None, d_vocab_out=7) | dict(d_head=5),
    "shortformer-ln": dict(
        act_fn="gelu_new",
        d_mlp=6,
        normalization_type="LN",
        positional_embedding_type="shortformer",
        use_attn_scale=False,
    ),
    "solu": dict(act_fn="solu_ln", d_mlp=10, normalization_type="LN", eps=1e-3),
    "solu-pre-shortformer": dict(
        act_fn="solu_ln",
        d_mlp=10,
        normalization_type="LNPre",
        positional_embedding_type="shortformer",
    ),
    "solu-plain-no-ln": dict(act_fn="solu", d_mlp=10, normalization_type=None),
    "silu": dict(act_fn="silu", d_mlp=10, normalization_type="LN"),
    "bidirectional-ln": dict(
        act_fn="gelu_new", d_mlp=10, normalization_type="LN", attention_dir="bidirectional"
    ),
    # As compiled by Tracr: other tokens at the output.
    "bidirectional-tracr": dict(
        act_fn="relu",
        d_mlp=10,
        normalization_type=None,
        attention_dir="bidirectional",
        d_vocab_out=7,
    )
    | dict(d_head=5),
}


# How far weights are from 0; less where a saturated softmax or terms that cancel lose digits of f32.
SPREAD = {"shortformer-ln": 0.25, "silu": 0.35, "bidirectional-ln": 0.35}


def build(seed: int, options: dict, spread: float) -> HookedTransformer:
    model = HookedTransformer(HookedTransformerConfig(**(COMMON | options)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            offset = 1.0 if name.endswith((".w",)) else 0.0
            value.copy_(offset + spread * noise)
    return model


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, TOKENS[0]] - logits[0, -1, TOKENS[1]]


def activations(model: HookedTransformer, tokens: torch.Tensor, flag: str) -> tuple[dict, dict]:
    """All activations and the metric's gradient at each, with one way of splitting inputs."""
    model.reset_hooks()
    model.set_use_attn_result(True)
    model.set_use_attn_in(flag == "attn_in")
    model.set_use_split_qkv_input(flag == "split")
    if not model.cfg.attn_only:
        model.set_use_hook_mlp_in(True)
    found: dict = {}

    def keep(value, hook):
        value.retain_grad()
        # LayerNorm runs once for each of queries, keys and values.
        found.setdefault(hook.name, []).append(value)

    logits = model.run_with_hooks(tokens, fwd_hooks=[(lambda _: True, keep)])
    metric(logits).backward()
    values = {name: each[0].detach()[0] for name, each in found.items()}
    zero = lambda value: torch.zeros_like(value) if value.grad is None else value.grad
    gradients = {name: sum(map(zero, each)).detach()[0] for name, each in found.items()}
    return values | {"logits": logits.detach()[0]}, gradients


def reference(model: HookedTransformer) -> dict[str, torch.Tensor]:
    exact = HookedTransformer(HookedTransformerConfig(**(model.cfg.to_dict() | {"dtype": torch.float64})))
    exact.load_state_dict({n: v.double() if v.is_floating_point() else v for n, v in model.state_dict().items()})
    out: dict = {}
    for i, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([prompt])
        for flag in ["attn_in", "split", "plain"]:
            values, _ = activations(model, tokens, flag)
            _, gradients = activations(exact, tokens, flag)
            out |= {f"p{i}/{name}": value for name, value in values.items()}
            out |= {f"p{i}/grad/{name}": value for name, value in gradients.items()}
        exact.zero_grad()
        exact.reset_hooks()
        logits = exact(tokens)[0, :-1]
        torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).backward()
        for name, value in exact.named_parameters():
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            out[f"p{i}/param_grad/{name}"] = gradient.clone()
    out |= sweeps(model)
    return out


def sweeps(model: HookedTransformer) -> dict[str, torch.Tensor]:
    model.reset_hooks()
    clean, corrupted = torch.tensor([PROMPTS[0]]), torch.tensor([CORRUPTED])
    config = model.cfg
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        stream = torch.zeros(config.n_layers, len(CORRUPTED))
        heads = torch.zeros(config.n_layers, config.n_heads)
        for layer in range(config.n_layers):
            for position in range(len(CORRUPTED)):

                def row(value, hook):
                    value[:, position] = cache[hook.name][:, position]
                    return value

                name = f"blocks.{layer}.hook_resid_pre"
                stream[layer, position] = metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, row)]))
            for head in range(config.n_heads):

                def one(value, hook):
                    value[:, :, head] = cache[hook.name][:, :, head]
                    return value

                name = f"blocks.{layer}.attn.hook_z"
                heads[layer, head] = metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, one)]))
    return {"patching/resid_pre": stream, "patching/z": heads}


def as_json(config: HookedTransformerConfig) -> str:
    plain = {
        name: value if isinstance(value, (str, int, float, bool, type(None), list)) else str(value)
        for name, value in config.to_dict().items()
    }
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "toys")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for seed, (name, options) in enumerate(VARIANTS.items()):
        model = build(seed, options, SPREAD.get(name, 0.45))
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        state = model.state_dict()
        weights = dict(model.named_parameters())
        # One of them with the masks that torch.save would keep, too.
        kept = state if name == "attn-only-ln" else {n: v for n, v in state.items() if n in weights}
        as_file = lambda tensors: {n: v.detach().clone().contiguous() for n, v in tensors.items()}
        save_file(as_file(kept), folder / "model.safetensors")
        (folder / "cfg.json").write_text(as_json(model.cfg))
        expected = {n: v.float() for n, v in reference(model).items()}
        save_file(as_file(expected), folder / "reference.safetensors")
        print(name, sum(1 for _ in expected), "tensors")


if __name__ == "__main__":
    main()
