"""Writes the golden files that the Rust tests compare with.

    python3 -m venv .venv                       # Python 3.11
    .venv/bin/pip install -r tests/golden/requirements.txt
    .venv/bin/python tests/golden/generate.py   # or: --only tiny-gelu, --out DIR

Seeds are fixed and torch runs on one thread, so a second run writes the same files. Nothing
is downloaded: the models are small, with random weights.

Each model has a folder with a checkpoint in Hugging Face's GPT-2 format and

    reference.json           prompts, prompt pairs, the metric's tokens, what each key means
    reference.safetensors    activations, gradients, patching sweeps
    processing.safetensors   weights and logits after each step of weight processing
    analysis.safetensors     logit lens, attribution, head detection, weight circuits
    tracing.safetensors      causal tracing, knock-outs, circuits (some models)
    tracing.json             its facts, tables, nodes, and what each key means
    paths.safetensors        path patching (keys: paths.py), for two of the models
    heads.safetensors        pattern and copy scores, products and norms of circuits
    heads.json               its prompts, and what each key means
    blocked.safetensors      attention rows without any source, edges cut (one model)
    circuits.safetensors     edges' and nodes' scores, runs of circuits, ACDC (some models)
    circuits.json            its pairs, graph and circuits, and what each key means
    knockout.safetensors     attention knock-out (some models)
    knockout.json            its prompts and cuts, and what each key means
    states.safetensors       patchscopes, interchanges, single neurons (some models)
    states.json              their prompts and positions, and what each key means
    aligned.safetensors      prompts of different lengths, answers of several tokens (some models)
    aligned.json             its prompts, roles and answers, and what each key means

The folder mini has heads, circuits, knockout and states only, of the shipped model in assets/mini.

All expected tensors are f32 and have no batch axis. Expected values come from
TransformerLens (no weight processing unless named), whose logits and parameter gradients
are checked against Hugging Face transformers on the way.
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore", category=DeprecationWarning)

import torch
from safetensors.torch import save_file

import aligned
import analysis
import blocked
import circuits
import heads
import knockout
import models
import paths
import processing
import states
import tracing
from models import SPECS, Spec, Tensors
from reference import losses, prompt_reference
from sweeps import SWEEPS, all_sweeps

PROMPTS = [[7, 31, 2, 45, 18, 31, 9], [40, 3, 22, 14]]
METRIC_TOKENS = (12, 29)
PAIRS = [
    # Differs at every position.
    ([5, 17, 33, 8, 41, 26], [19, 2, 47, 30, 11, 38]),
    # Shares positions 0 and 1, and again 3 and 5.
    ([6, 24, 10, 35, 44, 13], [6, 24, 49, 35, 21, 13]),
]

KEYS = {
    "p{i}/{hook}": "activation of prompt i at that hook point",
    "p{i}/logits": "[pos, vocab]",
    "p{i}/loss": "mean next-token loss, over pos - 1 predictions",
    "p{i}/loss_per_token": "[pos - 1]: at position t, -log p(token t+1)",
    "p{i}/metric": "logits[-1, a] - logits[-1, b] with a, b = metric_tokens",
    "p{i}/grad/{hook}": "d p{i}/metric / d activation at that hook point, computed in f64; "
    "0 where attention scores are masked",
    "p{i}/param_grad/{name}": "d p{i}/loss / d parameter, the checkpoint's names and layout; "
    "with tied embeddings wte.weight has the sum of both uses",
    "pair{i}/clean_metric, pair{i}/corrupted_metric": "the metric of the unpatched runs",
    "pair{i}/patching/{function}": "transformer_lens.patching: clean patched into corrupted, "
    "raw metric",
    "pair{i}/noising/{function}": "the same functions, corrupted patched into clean",
    "mean/...": "the same for a batch of both pairs: means over the pairs",
}


def full_reference(spec: Spec, weights: Tensors) -> tuple[dict[str, Tensors], dict]:
    """Tensors by file, and the contents of reference.json."""
    runs, errors = run_reference(spec, weights)
    processed = processing.processing_reference(spec, weights, PROMPTS)
    analysed, described = analysis.analysis_reference(spec, weights, PROMPTS, METRIC_TOKENS)
    metadata = {
        "model": spec.name,
        "prompts": PROMPTS,
        "pairs": [{"clean": clean, "corrupted": corrupted} for clean, corrupted in PAIRS],
        "metric_tokens": METRIC_TOKENS,
        "patching_functions": SWEEPS,
        "keys": KEYS,
        "max_abs_difference_from_float64": errors,
        "processing": {"steps": list(processing.STEPS), "keys": processing.KEYS},
        "analysis": described,
    }
    files = {"reference": runs, "processing": processed, "analysis": analysed}
    if spec.name in blocked.MODELS:
        files["blocked"], metadata["blocked"] = blocked.blocked_reference(spec, weights, PROMPTS[0])
    if spec.name in paths.MODELS:
        files["paths"] = paths.path_reference(spec, weights, PAIRS, METRIC_TOKENS)
    return files, metadata


def run_reference(spec: Spec, weights: Tensors) -> tuple[Tensors, dict]:
    """Activations, gradients and sweeps, and how far f32 is from f64."""
    hf = models.hugging_face(spec, weights)
    lens = models.transformer_lens(spec, weights)
    lens64 = models.transformer_lens(spec, weights, torch.float64)
    tensors: Tensors = {}
    errors = {}
    for i, prompt in enumerate(PROMPTS):
        tokens = torch.tensor(prompt)
        one, errors[f"p{i}"] = prompt_reference(spec, hf, (lens, lens64), tokens, METRIC_TOKENS)
        tensors |= {f"p{i}/{name}": tensor for name, tensor in one.items()}
    tensors |= all_sweeps(lens, PAIRS, METRIC_TOKENS)
    return tensors, errors


def logits_reference(spec: Spec, weights: Tensors) -> tuple[dict[str, Tensors], dict]:
    """For half-precision checkpoints: f32 arithmetic on the rounded weights."""
    hf = models.hugging_face(spec, weights)
    lens = models.transformer_lens(spec, weights)
    tensors: Tensors = {}
    for i, prompt in enumerate(PROMPTS):
        tokens = torch.tensor(prompt)
        logits = lens(tokens[None])[0].detach()
        expected = hf(tokens[None]).logits[0].detach()
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
        tensors[f"p{i}/logits"] = logits
        tensors[f"p{i}/loss"] = losses(logits, tokens).mean()
    keys = {key: KEYS[key] for key in ("p{i}/logits", "p{i}/loss")}
    metadata = {"model": spec.name, "prompts": PROMPTS, "keys": keys}
    return {"reference": tensors}, metadata


def write_model(spec: Spec, out: Path) -> None:
    directory = out / spec.name
    directory.mkdir(parents=True, exist_ok=True)
    weights = models.random_weights(spec)
    models.write_checkpoint(spec, weights, directory)
    reference = full_reference if spec.reference == "full" else logits_reference
    files, metadata = reference(spec, weights)
    for name, tensors in files.items():
        save_tensors(tensors, directory / f"{name}.safetensors")
    models.write_json(directory / "reference.json", metadata)
    if spec.reference == "full":
        write_heads(spec, weights, directory)
    if spec.name in circuits.MODELS:
        write_circuits(spec, weights, directory)
    if spec.name in knockout.MODELS:
        write_knockout(spec, weights, directory)
    if spec.name in states.MODELS:
        write_states(spec, weights, directory)
    if spec.name in aligned.MODELS:
        tensors, metadata = aligned.aligned_reference(spec, weights)
        save_tensors(tensors, directory / "aligned.safetensors")
        models.write_json(directory / "aligned.json", metadata)
    if spec.name in tracing.MODELS:
        tensors, metadata = tracing.tracing_reference(spec, weights, METRIC_TOKENS)
        save_tensors(tensors, directory / "tracing.safetensors")
        models.write_json(directory / "tracing.json", metadata)


def write_heads(spec: Spec, weights: Tensors, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tensors, metadata = heads.head_reference(spec, weights)
    save_tensors(tensors, directory / "heads.safetensors")
    models.write_json(directory / "heads.json", metadata)


def write_circuits(spec: Spec, weights: Tensors, directory: Path) -> None:
    tensors, metadata = circuits.circuit_reference(spec, weights)
    save_tensors(tensors, directory / "circuits.safetensors")
    models.write_json(directory / "circuits.json", metadata)


def write_knockout(spec: Spec, weights: Tensors, directory: Path) -> None:
    tensors, metadata = knockout.knockout_reference(spec, weights)
    save_tensors(tensors, directory / "knockout.safetensors")
    models.write_json(directory / "knockout.json", metadata)


def write_states(spec: Spec, weights: Tensors, directory: Path) -> None:
    tensors, metadata = states.states_reference(spec, weights)
    save_tensors(tensors, directory / "states.safetensors")
    models.write_json(directory / "states.json", metadata)


def save_tensors(tensors: Tensors, path: Path) -> None:
    tensors = {name: t.detach().to(torch.float32).contiguous() for name, t in tensors.items()}
    for name, tensor in tensors.items():
        bad = tensor.isnan() if name.endswith("hook_attn_scores") else ~tensor.isfinite()
        assert not bad.any(), f"{name} has values that are not finite"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the golden files.")
    names = [spec.name for spec in SPECS] + [heads.SHIPPED]
    parser.add_argument("--only", choices=names, help="write this model only")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for spec in SPECS:
        if arguments.only in (None, spec.name):
            write_model(spec, arguments.out)
            print(f"wrote {arguments.out / spec.name}")
    if arguments.only in (None, heads.SHIPPED):
        write_heads(*heads.shipped(), arguments.out / heads.SHIPPED)
        write_circuits(*heads.shipped(), arguments.out / heads.SHIPPED)
        write_knockout(*heads.shipped(), arguments.out / heads.SHIPPED)
        write_states(*heads.shipped(), arguments.out / heads.SHIPPED)
        print(f"wrote {arguments.out / heads.SHIPPED}")


if __name__ == "__main__":
    main()
