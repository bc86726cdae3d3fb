"""Checkpoints as people have them: what transformers and torch make of each.

    python tests/golden/checkpoints.py [--out DIR]

Writes `checkpoints/` (or DIR): a nanoGPT model without biases that went through
`weights-convert.py`, a small byte-level BPE as `vocab.json` and `merges.txt`, and `cases.json` with
`cases.safetensors`. On the way it tests `weights-convert.py` against torch and transformers.
Needs the versions of `requirements.txt`.
"""

import argparse
import json
import math
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import regex
import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from torch.nn import functional as F
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
from transformers.activations import ACT2FN

import models
import toys

CONVERTER = Path(__file__).parents[2] / "weights-convert.py"
SPEC = models.SPECS[0]
PROMPT = [3, 50, 17, 3, 8, 41]


# nanoGPT's model (model.py), written anew from its equations.


class LayerNorm(nn.Module):
    def __init__(self, size: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, size: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(size, 3 * size, bias=bias)
        self.c_proj = nn.Linear(size, size, bias=bias)

    def forward(self, x):
        batch, length, size = x.shape
        split = lambda t: t.view(batch, length, self.heads, size // self.heads).transpose(1, 2)
        q, k, v = map(split, self.c_attn(x).split(size, dim=2))
        scores = q @ k.transpose(2, 3) / math.sqrt(size // self.heads)
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool))
        z = scores.masked_fill(~mask, -math.inf).softmax(-1) @ v
        return self.c_proj(z.transpose(1, 2).reshape(batch, length, size))


class Mlp(nn.Module):
    def __init__(self, size: int, bias: bool):
        super().__init__()
        self.c_fc = nn.Linear(size, 4 * size, bias=bias)
        self.c_proj = nn.Linear(4 * size, size, bias=bias)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, size: int, heads: int, bias: bool):
        super().__init__()
        self.ln_1, self.ln_2 = LayerNorm(size, bias), LayerNorm(size, bias)
        self.attn, self.mlp = Attention(size, heads, bias), Mlp(size, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    def __init__(self, args: dict):
        super().__init__()
        size = args["n_embd"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(args["vocab_size"], size),
                "wpe": nn.Embedding(args["block_size"], size),
                "h": nn.ModuleList(
                    Block(size, args["n_head"], args["bias"]) for _ in range(args["n_layer"])
                ),
                "ln_f": LayerNorm(size, args["bias"]),
            }
        )
        self.lm_head = nn.Linear(size, args["vocab_size"], bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, tokens):
        t = self.transformer
        x = t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1]))
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))


def nano(bias: bool, seed: int) -> tuple[NanoGpt, dict]:
    args = dict(n_layer=2, n_head=2, n_embd=12, block_size=8, bias=bias, vocab_size=53, dropout=0.0)
    torch.manual_seed(seed)
    model = NanoGpt(args).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn_like(parameter)
            parameter.copy_(1 + noise if ".ln_" in name and name.endswith("weight") else noise)
    return model, args


def save_nano(model: NanoGpt, args: dict, path: Path) -> None:
    """As nanoGPT's train.py does after `torch.compile`."""
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "model_args": args, "iter_num": 7, "config": {"seed": 1}}, path)


def convert(*arguments: object) -> None:
    command = [sys.executable, str(CONVERTER), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@torch.no_grad()
def transformers_logits(folder: Path, tokens: list[int]) -> torch.Tensor:
    """What transformers computes from a folder that the converter wrote."""
    config = GPT2Config(**json.loads((folder / "config.json").read_text()))
    state = load_file(folder / "model.safetensors")
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    model = GPT2LMHeadModel(config).eval()
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name.endswith(".bias") and name not in state:
            state[name] = torch.zeros_like(tensor)
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])
    model.load_state_dict(state, strict=True)
    return model(torch.tensor([tokens])).logits[0]


@torch.no_grad()
def no_biases(out: Path) -> torch.Tensor:
    model, args = nano(bias=False, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        save_nano(model, args, Path(folder) / "ckpt.pt")
        convert(folder, "--out", out / "no-biases")
    logits = model(torch.tensor([PROMPT]))[0]
    close(transformers_logits(out / "no-biases", PROMPT), logits)
    return logits


@torch.no_grad()
def test_converter(weights: models.Tensors) -> None:
    """The other kinds of files, with biases and without nanoGPT's sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, args = nano(bias=True, seed=6)
        save_nano(model, args, folder / "ckpt.pt")
        convert(folder / "ckpt.pt")
        close(transformers_logits(folder, PROMPT), model(torch.tensor([PROMPT]))[0])
    hf = models.hugging_face(SPEC, weights)
    expected = hf(torch.tensor([PROMPT])).logits[0]
    state = hf.state_dict()
    linear = {n: t.T if is_matrix(n) else t for n, t in state.items() if n != "lm_head.weight"}
    half = len(state) // 2
    shards = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    for kind, parts in [("bin", [state]), ("bin", shards), ("safetensors", [linear])]:
        with tempfile.TemporaryDirectory() as name:
            folder, out = Path(name), Path(name) / "out"
            models.write_json(folder / "config.json", models.config_json(SPEC))
            for i, part in enumerate(parts):
                if kind == "bin":
                    torch.save(part, folder / f"pytorch_model-{i}.bin")
                else:
                    part = {n: t.contiguous() for n, t in part.items()}
                    save_file(part, folder / "model.safetensors")
            torch.save({"lr": 1}, folder / "training_args.bin")
            convert(folder, "--out", out)
            close(transformers_logits(out, PROMPT), expected)


@torch.no_grad()
def test_lens_converter() -> None:
    """State dicts of TransformerLens beside their config, in each of its forms."""
    options = dict(
        n_layers=2, d_model=8, n_ctx=6, d_head=5, n_heads=2, d_vocab=9, d_mlp=10, d_vocab_out=7,
        act_fn="relu", normalization_type=None, attention_dir="bidirectional", device="cpu", seed=3,
    )
    model = HookedTransformer(HookedTransformerConfig(**options))
    tokens = torch.tensor([[3, 1, 6, 1, 4]])
    expected, state, cfg = model(tokens)[0], model.state_dict(), model.cfg
    json_cfg = toys.as_json(cfg)
    forms = {
        # InterpBench's files, and lists of edges beside them.
        "interpbench": lambda f: (
            torch.save(state, f / "ll_model.pth"),
            (f / "ll_model_cfg.pkl").write_bytes(pickle.dumps(cfg.to_dict())),
            (f / "edges.pkl").write_bytes(pickle.dumps([("blocks.0", "blocks.1")])),
        ),
        "object": lambda f: (
            torch.save(state, f / "model.pt"),
            (f / "config.pkl").write_bytes(pickle.dumps(cfg)),
        ),
        "json": lambda f: (
            torch.save(state, f / "model.pt"),
            (f / "model_cfg.json").write_text(json_cfg),
        ),
        "cfg.json": lambda f: (
            torch.save(state, f / "model.pt"),
            (f / "cfg.json").write_text(json_cfg),
        ),
        "one file": lambda f: torch.save(
            {"state_dict": state, "cfg": json.loads(json_cfg)}, f / "model.pt"
        ),
    }
    for write in forms.values():
        with tempfile.TemporaryDirectory() as name:
            folder, out = Path(name), Path(name) / "out"
            write(folder)
            convert(folder, "--out", out)
            fields = json.loads((out / "cfg.json").read_text())
            known = {n: v for n, v in fields.items() if n in options}
            assert known == options, known
            again = HookedTransformer(HookedTransformerConfig(**options))
            loaded = load_file(out / "model.safetensors")
            missing, unexpected = again.load_state_dict(loaded, strict=False)
            assert not unexpected and all(n.endswith((".mask", ".IGNORE")) for n in missing)
            assert torch.equal(again(tokens)[0], expected)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(state, folder / "model.pt")
        refused(folder, "configs found: none; expected one, or cfg.json")
        (folder / "cfg.pkl").write_bytes(pickle.dumps({"d_model": print}))
        refused(folder, "builtins.print is nothing that a config has")


def refused(folder: Path, reason: str) -> None:
    command = [sys.executable, str(CONVERTER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and reason in done.stderr, done.stderr
    assert not (folder / "model.safetensors").exists()


def is_matrix(name: str) -> bool:
    ends = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return name.endswith(ends)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    worst = (found - expected).abs().max() / expected.abs().max()
    assert worst < 1e-5, worst


# Byte-level BPE.

CORPUS = (
    "When Mary and John went to the store, John gave a drink to Mary. "
    "It's true: they'd been there in 1998, weren't they? Ünïcödé, naïve café — 東京 😀.\n"
) * 3
TEXTS = [
    "When Mary and John went to the store, John gave a drink to",
    "a<|endoftext|>b",
    "<|endoftext|><|endoftext|>Mary",
    "It's 1998; they'd   say  so\n\n\tweren't   ",
    "naïve café — 東京 😀 ŠŠ",
    "\u00a0x\u3000y\r\n z",
    "''s 'S 're're",
]


def byte_pairs(out: Path) -> dict:
    folder = out / "bpe"
    folder.mkdir(parents=True, exist_ok=True)
    trained = ByteLevelBPETokenizer()
    special = ["<|endoftext|>"]
    trained.train_from_iterator([CORPUS], vocab_size=340, min_frequency=2, special_tokens=special)
    trained.save_model(str(folder))
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    reference = GPT2Tokenizer(str(vocab), str(merges))
    own = OwnBpe(json.loads(vocab.read_text()), merges.read_text())
    ids = []
    for text in TEXTS:
        ids.append(reference(text)["input_ids"])
        assert ids[-1] == own.encode(text), (text, ids[-1], own.encode(text))
        assert reference.decode(ids[-1], clean_up_tokenization_spaces=False) == text
    return {"texts": TEXTS, "ids": ids}


class OwnBpe:
    """GPT-2's encoder (Radford et al. 2019, encoder.py), written anew from its description."""

    SPLIT = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )

    def __init__(self, vocab: dict[str, int], merges: str):
        self.vocab = vocab
        lines = [line for line in merges.splitlines() if line and not line.startswith("#version")]
        self.rank = {tuple(line.split(" ")): i for i, line in enumerate(lines)}
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        self.letter = {b: chr(b) for b in printable}
        self.letter |= {b: chr(256 + i) for i, b in enumerate(others)}

    def encode(self, text: str) -> list[int]:
        ids = []
        for part in regex.split(r"(<\|endoftext\|>)", text):
            if part in self.vocab and part == "<|endoftext|>":
                ids.append(self.vocab[part])
                continue
            for word in self.SPLIT.findall(part):
                ids += [self.vocab[token] for token in self.word(word)]
        return ids

    def word(self, word: str) -> list[str]:
        tokens = [self.letter[b] for b in word.encode()]
        while True:
            pairs = list(zip(tokens, tokens[1:]))
            best = min(pairs, key=lambda pair: self.rank.get(pair, math.inf), default=None)
            if best not in self.rank:
                return tokens
            merged, i = [], 0
            while i < len(tokens):
                if tuple(tokens[i : i + 2]) == best:
                    merged.append(tokens[i] + tokens[i + 1])
                    i += 2
                else:
                    merged.append(tokens[i])
                    i += 1
            tokens = merged


# Cases about one model, tiny-gelu-new.


@torch.no_grad()
def positions(weights: models.Tensors) -> torch.Tensor:
    """`n_positions` 6 counts, `n_ctx` 5 does not."""
    config = models.config_json(SPEC) | {"n_positions": 6, "n_ctx": 5}
    model = GPT2LMHeadModel(GPT2Config(**config, attn_implementation="eager")).eval()
    state = {f"transformer.{n}": t for n, t in weights.items()}
    state["transformer.wpe.weight"] = weights["wpe.weight"][:6]
    state["lm_head.weight"] = weights["wte.weight"]
    model.load_state_dict(state, strict=True)
    return model(torch.tensor([PROMPT])).logits[0]


@torch.no_grad()
def more_rows(weights: models.Tensors) -> dict:
    """A greedy continuation, and rank and KL over all rows, in f64."""
    model = models.hugging_face(SPEC, weights)
    tokens = list(PROMPT)
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    logits = model(torch.tensor([PROMPT])).logits[0, -1].double()
    other = model(torch.tensor([PROMPT[::-1]])).logits[0, -1].double()
    p, q = logits.log_softmax(-1), other.log_softmax(-1)
    last = len(logits) - 1
    return {
        "generated": tokens[len(PROMPT) :],
        "token": last,
        "rank": int((logits > logits[last]).sum()),
        "kl": float((p.exp() * (p - q)).sum()),
    }


def activations() -> models.Tensors:
    x = torch.linspace(-6, 6, 1201)
    names = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu"]
    return {"x": x} | {name: ACT2FN[name](x.double()).float() for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = Path(__file__).parent / "checkpoints"
    parser.add_argument("--out", type=Path, default=here, metavar="DIR")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    weights = models.random_weights(SPEC)
    test_converter(weights)
    test_lens_converter()
    for file in (out / "no-biases").glob("*"):
        file.unlink()
    tensors = activations()
    tensors |= {"no-biases": no_biases(out), "n-positions": positions(weights)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, out / "cases.safetensors")
    cases = {"prompt": PROMPT, "bpe": byte_pairs(out), "more-rows": more_rows(weights)}
    models.write_json(out / "cases.json", cases)
    print(f"wrote {out}; weights-convert.py agrees with torch and transformers")


if __name__ == "__main__":
    main()
