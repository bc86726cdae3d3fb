"""Compares circuits.safetensors with TransformerLens 4.3.0, whose edges are code of its own.

    python3 -m venv .venv43
    .venv43/bin/pip install transformer-lens==4.3.0
    .venv43/bin/python tests/golden/circuit_oracles.py

Compared, for every pair of tiny-gelu and of the shipped model (of tiny-relu, whose attention scores
are not scaled, TransformerLens 4.3.0 has other logits than Hugging Face): `eap/denoising` of every edge with
`tools.analysis.attribution_patching.attribution_patch` (its scores by position, summed);
`circuits/corrupted` of all circuits with `faithfulness` (its share recovered, times the gap); and
`exact/denoising` from heads into queries, keys and values with `patching.get_act_patch_direct_path`.
Nothing is written. TransformerLens 4 runs the Hugging Face model in f32, so that values agree to
2e-5 of the largest.

Compared once besides, with the program of Hanna et al. itself (github.com/hannamw/EAP-IG at 795f560,
on the CPU, in f64, all three models, all pairs as one batch): EAP, EAP-IG-inputs, clean-corrupted, EAP-IG-activations
(`activations/implemented`), information flow routes, exact; top-n, greedy and pruned circuits; runs
of circuits with corrupted ablation, and of four or five circuits per model with zero ablation. Scores
agree to 9e-8 of the largest and runs of circuits to 9e-7, but for information flow where no source
of a receiver comes near it: a NaN there, 0 here.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens import ActivationCache, patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import attribution_patching as oracle
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).parent
CHECKPOINTS = {
    "tiny-gelu": HERE / "tiny-gelu",
    "mini": HERE.parents[1] / "assets" / "mini",
}
READS = {"q_input": "q", "k_input": "k", "v_input": "v"}


def bridge_of(checkpoint: Path) -> TransformerBridge:
    """TransformerLens 4 opens models from a folder, with their tokenizer."""
    model = GPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager")
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        wrapped.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu").eval()


def node_name(node: oracle.Node) -> str:
    if node.kind == "embed":
        return "input"
    if node.kind == "logits":
        return "logits"
    if node.head is None:
        return f"m{node.layer}"
    read = READS.get(node.kind)
    return f"a{node.layer}.h{node.head}" + (f"<{read}>" if read else "")


def edge_name(edge: tuple) -> str:
    assert edge[0].position == edge[1].position
    return "->".join(node_name(node) for node in edge)


def compare(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < 2e-5, f"{what}: {error}"
    print(f"{what}: {error:.1e} of the largest of {expected.numel()}")


class Golden:
    def __init__(self, name: str):
        self.metadata = json.loads((HERE / name / "circuits.json").read_text())
        self.tensors = load_file(HERE / name / "circuits.safetensors")
        self.names = " ".join(self.metadata["edges"]).split()

    def pair(self, i: int) -> tuple:
        pair = self.metadata["pairs"][i]
        right, wrong = pair["metric_tokens"]
        tokens = (torch.tensor(pair[kind])[None] for kind in ("clean", "corrupted"))
        return *tokens, lambda logits: logits[0, -1, right] - logits[0, -1, wrong]


def compare_edges(bridge: TransformerBridge, golden: Golden, i: int) -> None:
    clean, corrupted, metric = golden.pair(i)
    config = oracle.EdgeAttributionConfig(granularity="edge")
    scores = oracle.attribution_patch(bridge, clean, corrupted, metric, config).edge_scores
    by_name = dict.fromkeys(golden.names, 0.0)
    for edge, score in scores.items():
        by_name[edge_name(edge)] += score
    assert len(by_name) == len(golden.names), "an edge that the golden lacks"
    found = torch.tensor([by_name[name] for name in golden.names])
    compare(found, golden.tensors["eap/denoising"][i], f"pair {i}, eap/denoising")
    compare_circuits(bridge, golden, i, list(scores))


def compare_circuits(bridge: TransformerBridge, golden: Golden, i: int, edges: list) -> None:
    clean, corrupted, metric = golden.pair(i)
    index = {name: e for e, name in enumerate(golden.names)}
    found = []
    for bits in golden.metadata["circuits"]:
        inside = [edge for edge in edges if bits[index[edge_name(edge)]] == "1"]
        result = oracle.faithfulness(bridge, clean, corrupted, metric, inside)
        gap = result.full_metric - result.corrupt_metric
        found.append(result.corrupt_metric + result.recovered * gap)
    expected = golden.tensors["circuits/corrupted"][:, i]
    compare(torch.tensor(found), expected, f"pair {i}, circuits/corrupted")


def compare_direct_paths(bridge: TransformerBridge, golden: Golden, i: int) -> None:
    """Of heads into later heads only: as much as that function patches."""
    clean, corrupted, metric = golden.pair(i)
    caches: list[ActivationCache] = [bridge.run_with_cache(p)[1] for p in (clean, corrupted)]
    base = golden.tensors["corrupted"][i].item()
    index = {name: e for e, name in enumerate(golden.names)}
    found, expected = [], []
    for read in "qkv":
        table = patching.get_act_patch_direct_path_all_sources(
            bridge, corrupted, *caches, metric, component=read, verbose=False
        )
        for sl, sh, dl, dh in torch.cartesian_prod(*map(torch.arange, table.shape)).tolist():
            if dl > sl:
                found.append(table[sl, sh, dl, dh].item())
                edge = index[f"a{sl}.h{sh}->a{dl}.h{dh}<{read}>"]
                expected.append(base + golden.tensors["exact/denoising"][i, edge].item())
    compare(torch.tensor(found), torch.tensor(expected), f"pair {i}, corrupted + exact/denoising")


def main() -> None:
    torch.set_num_threads(1)
    for name, checkpoint in CHECKPOINTS.items():
        bridge, golden = bridge_of(checkpoint), Golden(name)
        print(name)
        for i in range(len(golden.metadata["pairs"])):
            compare_edges(bridge, golden, i)
            with torch.no_grad():
                compare_direct_paths(bridge, golden, i)


if __name__ == "__main__":
    main()
