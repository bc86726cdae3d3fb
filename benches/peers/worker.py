"""Does a Python peer's side of the comparison: reads requests as JSON lines, answers each with
the seconds that it took and values to check. `compare.py` drives it, as it does the Rust worker.

Usage: worker.py transformer_lens | hugging_face | bridge
"""

import itertools
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import tokenizers
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

THREADS = 2


class HuggingFace:
    """transformers, eager attention: forward passes only, since it has no patching."""

    name = "transformers"

    def __init__(self, setup: dict):
        self.hf = GPT2LMHeadModel.from_pretrained(
            setup["checkpoint"], attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.clean = torch.tensor(setup["clean"])
        self.late = torch.tensor(setup["late"])
        self.everywhere = torch.tensor(setup["everywhere"])
        self.long = torch.tensor(setup["long"])
        self.metric_tokens = setup["metric"]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.hf(tokens, use_cache=False).logits

    def run(self, work: str, cells: list[int] | None) -> dict:
        shapes = {
            "forward_8x15": self.clean,
            "forward_1x15": self.clean[:1],
            "forward_1x256": self.long[None, :256],
            "forward_16x16": self.long[:256].reshape(16, 16),
            "forward_1x1024": self.long[None],
        }
        tokens = shapes[work]
        start = time.perf_counter()
        logits = self.forward(tokens)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "values": last_row(logits)}


class TransformerLens(HuggingFace):
    """HookedTransformer without weight processing, and its `patching` module."""

    name = "transformer-lens"

    def __init__(self, setup: dict):
        super().__init__(setup)
        self.model = self.build()
        del self.hf
        _, self.clean_cache = self.model.run_with_cache(self.clean)

    def build(self):
        from golden_models import hooked_transformer

        return hooked_transformer(self.hf)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens)

    def run(self, work: str, cells: list[int] | None) -> dict:
        if work.startswith("cached"):
            tokens = self.clean if work == "cached_8x15" else self.long[None]
            start = time.perf_counter()
            logits, _ = self.model.run_with_cache(tokens)
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "values": last_row(logits)}
        if work.startswith("forward"):
            return super().run(work, cells)
        corrupted = self.everywhere if work.endswith("everywhere") else self.late
        name = work.removesuffix("_everywhere").removesuffix("_given").removesuffix("_counted")
        return self.sweep(name.removesuffix("_late"), corrupted, cells, work.endswith("_counted"))

    def sweep(self, grid: str, corrupted, cells: list[int] | None, count_caches: bool) -> dict:
        """Patches some of a grid's cells (None: all of them) by TransformerLens's own loop."""
        import pandas
        from transformer_lens import patching

        n_layers, n_heads = self.model.cfg.n_layers, self.model.cfg.n_heads
        activation, setter, axes = {
            "resid_pre": ("resid_pre", patching.layer_pos_patch_setter, ("pos",)),
            "z": ("z", patching.layer_head_vector_patch_setter, ("head",)),
            "z_by_position": ("z", patching.layer_pos_head_vector_patch_setter, ("pos", "head")),
        }[grid]
        sizes = {"pos": corrupted.shape[1], "head": n_heads}
        ranges = [range(n_layers), *(range(sizes[axis]) for axis in axes)]
        index = list(itertools.product(*ranges))
        picked = index if cells is None else [index[i] for i in cells]
        start = time.perf_counter()
        cache = self.clean_cache
        if count_caches:
            _, cache = self.model.run_with_cache(self.clean)
            self.model.run_with_cache(corrupted)
        cached = time.perf_counter()
        values = patching.generic_activation_patch(
            self.model,
            corrupted,
            cache,
            self.logit_difference,
            setter,
            activation,
            index_df=pandas.DataFrame(picked, columns=["layer", *axes]),
        )
        end = time.perf_counter()
        return {
            "seconds": end - start,
            "fixed_seconds": cached - start,
            "cell_seconds": (end - cached) / len(picked),
            "values": values.tolist(),
        }

    def logit_difference(self, logits: torch.Tensor) -> torch.Tensor:
        a, b = self.metric_tokens
        return (logits[:, -1, a] - logits[:, -1, b]).mean()


class Bridge(TransformerLens):
    """TransformerLens 4's TransformerBridge over the same Hugging Face model."""

    def build(self):
        from transformer_lens.model_bridge import TransformerBridge

        # The prompts are tokens already; without a tokenizer it would ask the hub for one.
        end = "<|endoftext|>"
        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({end: 0}, unk_token=end))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=end, eos_token=end)
        with tempfile.TemporaryDirectory() as directory:
            tokenizer.save_pretrained(directory)
            return TransformerBridge.boot_transformers(
                "gpt2",
                hf_model=self.hf,
                tokenizer=PreTrainedTokenizerFast.from_pretrained(directory),
                device="cpu",
            )


def last_row(logits: torch.Tensor) -> list[float]:
    """The first logits of the last position of each prompt."""
    return logits[:, -1, :1000].flatten().tolist()


def serve(kind: type) -> None:
    """Answers requests until there are no more."""
    # What libraries print must not get among the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(THREADS)
    peer = kind(json.loads(sys.stdin.readline()))
    packages = [peer.name, "torch"]
    ready = {
        "version": ", ".join(f"{p} {version(p)}" for p in packages),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = peer.run(request["work"], request.get("cells"))
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    peers = {"transformer_lens": TransformerLens, "hugging_face": HuggingFace, "bridge": Bridge}
    with torch.inference_mode():
        serve(peers[sys.argv[1]])


if __name__ == "__main__":
    main()
