#!/usr/bin/env python3
"""Turns a GPT-2-style checkpoint of PyTorch into one that patchlens opens.

    python weights-convert.py SOURCE [--out DIR]

SOURCE is a folder or a file: pytorch_model.bin (or its shards), nanoGPT's ckpt.pt, any .pt, .pth,
.ckpt or .bin with a state dict, or safetensors. Written are model.safetensors and, where SOURCE has
no config.json, one made from nanoGPT's `model_args`. Weights of nn.Linear layers, [out, in], are
transposed to GPT-2's [in, out]; buffers with the causal mask and an lm_head.weight that equals
wte.weight are left out. A state dict of TransformerLens keeps its names and shapes, and needs its
config beside it as cfg.json (`model.cfg.to_dict()`). Needs torch and safetensors. Pickles are read with `weights_only=True`, so
that they cannot run code.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

MATRICES = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")
LENS_MASKS = (".attn.mask", ".attn.IGNORE")
# Under which the weights stand in files that hold more than them.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module")
SHARDS = ("pytorch_model*.bin", "model*.safetensors")
SINGLE = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: SOURCE's folder")
    arguments = parser.parse_args()
    folder = arguments.source if arguments.source.is_dir() else arguments.source.parent
    out = arguments.out or folder
    if (out / "model.safetensors").exists():
        sys.exit(f"{out / 'model.safetensors'} is there already; give another folder with --out")
    weights, model_args = {}, None
    for file in files(arguments.source):
        print(f"reading {file}")
        part, found = read(file)
        weights |= part
        model_args = model_args or found
    weights = converted(weights)
    config = config_json(folder, weights, model_args)
    out.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    elif folder.resolve() != out.resolve():
        shutil.copy(config_file(folder), out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    print(f"wrote {out / 'model.safetensors'} with {len(weights)} tensors")


def files(source: Path) -> list[Path]:
    """The files of weights: all shards of one kind, or the one that is given."""
    if not source.is_dir():
        return [source]
    for pattern in SHARDS + SINGLE:
        found = [f for f in sorted(source.glob(pattern)) if not f.name.startswith(NOT_WEIGHTS)]
        if len(found) > 1 and pattern in SINGLE:
            sys.exit(f"several files: {', '.join(f.name for f in found)}; name one of them")
        if found:
            return found
    sys.exit(f"{source}: no weights ({', '.join(SHARDS + SINGLE)})")


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict | None]:
    """The tensors of a file, and nanoGPT's sizes if it has them."""
    if file.suffix == ".safetensors":
        return load_file(file), None
    content = torch.load(file, map_location="cpu", weights_only=True)
    model_args = content.get("model_args")
    for name in CONTAINERS:
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    return {n: t for n, t in content.items() if isinstance(t, torch.Tensor)}, model_args


def converted(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if "embed.W_E" in weights:
        kept = {n: t for n, t in weights.items() if not n.endswith(LENS_MASKS)}
        return {n: t.contiguous().clone() for n, t in kept.items()}
    weights = {n: t for n, t in weights.items() if not n.endswith(MASKS)}
    shapes = [t.shape for n, t in weights.items() if n.endswith(MATRICES[0])]
    if not shapes:
        sys.exit("no tensor `h.N.attn.c_attn.weight`: this is not a GPT-2")
    if all(rows == 3 * columns for rows, columns in shapes):
        print("transposing the matrices of nn.Linear, [out, in]")
        weights = {n: t.T if n.endswith(MATRICES) else t for n, t in weights.items()}
    head, embedding = (named(weights, end) for end in ("lm_head.weight", "wte.weight"))
    if head and embedding and torch.equal(weights[head], weights[embedding]):
        del weights[head]
    kept = (torch.float32, torch.float16, torch.bfloat16)
    weights = {n: t if t.dtype in kept else t.float() for n, t in weights.items()}
    return {n: t.contiguous().clone() for n, t in weights.items()}


def named(weights: dict[str, torch.Tensor], end: str) -> str | None:
    names = [name for name in weights if name == end or name.endswith("." + end)]
    return names[0] if len(names) == 1 else None


def config_file(folder: Path) -> Path | None:
    files = (folder / name for name in ("config.json", "cfg.json"))
    return next((file for file in files if file.exists()), None)


def config_json(folder: Path, weights: dict, model_args: dict | None) -> dict | None:
    """The config of nanoGPT's sizes; None where there is one."""
    if config_file(folder):
        return None
    if "embed.W_E" in weights:
        sys.exit(f"{folder} has no cfg.json, the JSON of TransformerLens's `model.cfg.to_dict()`")
    if model_args is None:
        sys.exit(f"{folder} has no config.json; write one with n_layer, n_head, n_embd, ...")
    print('config.json from `model_args`, with nanoGPT\'s activation nn.GELU: "gelu"')
    head, embedding = (named(weights, end) for end in ("lm_head.weight", "wte.weight"))
    return {
        "activation_function": "gelu",
        "architectures": ["GPT2LMHeadModel"],
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_embd": model_args["n_embd"],
        "n_head": model_args["n_head"],
        "n_layer": model_args["n_layer"],
        "n_positions": model_args["block_size"],
        "tie_word_embeddings": head is None or embedding is None,
        "vocab_size": model_args["vocab_size"],
    }


if __name__ == "__main__":
    main()
