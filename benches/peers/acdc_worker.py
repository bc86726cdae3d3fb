"""Does auto-circuit's side of the comparison of ACDC (`auto_circuit.prune_algos.ACDC`, 1.0.1), on the
shipped model; `circuits.py` drives it. auto-circuit is written for an older TransformerLens, of which
it needs a name that has changed, and imports packages of which ACDC uses nothing.
"""

import sys
import time
import types
from importlib import import_module
from unittest.mock import MagicMock

import torch
import transformer_lens

from worker import serve
from golden_models import hooked_transformer
from transformers import GPT2LMHeadModel

UNUSED = """blobfile kaleido plotly plotly.express plotly.graph_objects plotly.io plotly.subplots
    tracr tracr.compiler tracr.compiler.assemble tracr.compiler.lib tracr.rasp vscode_tqdm word2word"""


def prepare() -> None:
    for name in UNUSED.split():
        try:
            import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    cache = transformer_lens.TransformerLensKeyValueCache
    transformer_lens.HookedTransformerKeyValueCache = cache
    module = types.ModuleType("transformer_lens.past_key_value_caching")
    module.HookedTransformerKeyValueCache = cache
    sys.modules[module.__name__] = module


class AutoCircuit:
    name = "auto-circuit"

    def __init__(self, setup: dict):
        prepare()
        from auto_circuit.data import PromptPairBatch
        from auto_circuit.utils.graph_utils import patchable_model

        shipped = setup["shipped"]
        hf = GPT2LMHeadModel.from_pretrained(shipped["checkpoint"], attn_implementation="eager")
        model = hooked_transformer(hf.eval())
        model.cfg.use_attn_result = model.cfg.use_attn_in = True
        model.cfg.use_split_qkv_input = model.cfg.use_hook_mlp_in = True
        model.requires_grad_(False)
        clean, corrupted = (torch.tensor(shipped[kind]) for kind in ("clean", "corrupted"))
        self.batches = [PromptPairBatch(0, 0, clean, corrupted, [], [])]
        self.model = patchable_model(
            model, factorized=True, slice_output="last_seq", separate_qkv=True
        )

    def run(self, work: str, cells: list[int] | None) -> dict:
        from auto_circuit.prune_algos.ACDC import acdc_prune_scores

        base, exponent = {"acdc_fine": (2, -2), "acdc_coarse": (2, -1)}[work]
        start = time.perf_counter()
        scores = acdc_prune_scores(
            self.model, self.batches, None, tao_exps=[exponent], tao_bases=[base]
        )
        seconds = time.perf_counter() - start
        kept = sum(int(torch.isinf(table).sum()) for table in scores.values())
        return {"seconds": seconds, "values": [kept], "edges": len(self.model.edges)}


if __name__ == "__main__":
    serve(AutoCircuit)
