#!/usr/bin/env python3
"""Turns a checkpoint of PyTorch, of a GPT-2 or of TransformerLens, into one that patchlens opens.

    python weights-convert.py SOURCE [--out DIR]

SOURCE is a folder or a file: pytorch_model.bin (or its shards), nanoGPT's ckpt.pt, any .pt, .pth,
.ckpt or .bin with a state dict, or safetensors. Written are model.safetensors and, where SOURCE has
no config.json, one made from nanoGPT's `model_args`. Weights of nn.Linear layers, [out, in], are
transposed to GPT-2's [in, out]; buffers with the causal mask and an lm_head.weight that equals
wte.weight are left out.

A state dict of TransformerLens keeps its names and shapes. It needs its config, as cfg.json or
another JSON or pickle whose name has `cfg` or `config` in it (`model.cfg` or `model.cfg.to_dict()`,
as InterpBench's ll_model_cfg.pkl beside ll_model.pth), or in the same file, under `cfg` or `config`;
written as cfg.json.

Needs numpy, torch and safetensors. Nothing in a pickle is run: tensors are read with `weights_only=True`,
and of a config's pickle only plain values and numbers, types and devices of torch are made.
"""

import argparse
import json
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import numpy
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
# Under which a config stands beside the weights.
CONFIGS = ("cfg", "config")


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
    weights, beside = {}, {}
    for file in files(arguments.source):
        print(f"reading {file}")
        part, others = read(file)
        weights |= part
        beside |= others
    weights = converted(weights)
    is_lens = "embed.W_E" in weights
    config = lens_config(folder, beside) if is_lens else config_json(folder, weights, beside)
    out.mkdir(parents=True, exist_ok=True)
    if config is not None:
        name = "cfg.json" if is_lens else "config.json"
        (out / name).write_text(json.dumps(config, indent=2) + "\n")
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


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a file, and what it has beside them."""
    if file.suffix == ".safetensors":
        return load_file(file), {}
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"{file}: more than tensors and plain values; save model.state_dict(). {reason}")
    if not isinstance(content, dict):
        sys.exit(f"{file}: {type(content).__name__}; expected a state dict")
    beside = {n: v for n, v in content.items() if not isinstance(v, torch.Tensor)}
    for name in CONTAINERS:
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    return {n: t for n, t in content.items() if isinstance(t, torch.Tensor)}, beside


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


def lens_config(folder: Path, beside: dict) -> dict | None:
    """TransformerLens's config; None where it is a JSON file that patchlens knows."""
    if config_file(folder):
        return None
    for name in CONFIGS:
        if isinstance(beside.get(name), dict):
            return plain(beside[name])
    named = [f for f in sorted(folder.iterdir()) if any(name in f.stem.lower() for name in CONFIGS)]
    found = [f for f in named if f.suffix in (".json", ".pkl", ".pickle")]
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        sys.exit(
            f"{folder}: configs found: {names}; expected one, or cfg.json, the JSON of "
            "TransformerLens's `model.cfg.to_dict()`"
        )
    print(f"reading {found[0]}")
    if found[0].suffix == ".json":
        return json.loads(found[0].read_text())
    with found[0].open("rb") as file:
        content = PlainUnpickler(file).load()
    return plain(content if isinstance(content, dict) else vars(content))


class Fields:
    """Stands for an object of TransformerLens: its fields alone."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)


class PlainUnpickler(pickle.Unpickler):
    """Makes plain values, and of classes only those that configs have: no code is run."""

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "device"):
            return torch.device
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("numpy", "dtype"):
            return numpy.dtype
        if module.endswith("core.multiarray") and name == "scalar":
            return number
        if module.split(".")[0] == "transformer_lens" and name == "HookedTransformerConfig":
            return Fields
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that a config has")


def number(kind: numpy.dtype, data: bytes) -> int | float | bool:
    """One of numpy's numbers; of no other kind, since a buffer holds no objects."""
    return numpy.frombuffer(data, kind)[0].item()


def plain(config: dict) -> dict:
    """What of a config is JSON; types and devices as text."""
    kinds = (str, int, float, bool, list, type(None))
    return {n: v if isinstance(v, kinds) else str(v) for n, v in config.items()}


def config_json(folder: Path, weights: dict, beside: dict) -> dict | None:
    """The config of nanoGPT's sizes; None where there is one."""
    if config_file(folder):
        return None
    model_args = beside.get("model_args")
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
