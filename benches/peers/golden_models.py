"""The reference builds of the golden tests, for GPT-2 small."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/golden"))

from models import Spec, transformer_lens  # noqa: E402
from transformer_lens import HookedTransformer  # noqa: E402
from transformers import GPT2LMHeadModel  # noqa: E402


def hooked_transformer(hf: GPT2LMHeadModel) -> HookedTransformer:
    """A HookedTransformer of the same weights, without processing."""
    shape = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
    spec = Spec("gpt2", seed=0, **{name: getattr(hf.config, name) for name in shape})
    prefix = "transformer."
    weights = {
        name.removeprefix(prefix): tensor.detach() for name, tensor in hf.state_dict().items()
    }
    return transformer_lens(spec, weights)
