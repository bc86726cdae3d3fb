"""What is compared: the rows of the table, with their targets."""

from dataclasses import dataclass, replace

PAIRS, LENGTH, LATE = 8, 15, 10
SWEEP, HEADS, BY_POSITION = 12 * LENGTH, 12 * 12, 12 * LENGTH * 12


@dataclass(frozen=True)
class Row:
    """A work by its name in all workers. Targets are ratios peer / ours, at least. Hugging Face's
    transformers has the rows without patching and caches: those called forward."""

    work: str
    title: str
    transformer_lens: float | None = None
    hugging_face: float | None = None
    # Of a sweep; the peer's time is measured on a sample of them.
    cells: int | None = None
    # How often it runs in each round; sweeps run once.
    repeats: int = 5

    @property
    def is_forward(self) -> bool:
        return self.work.startswith("forward")

    @property
    def is_sweep(self) -> bool:
        return self.cells is not None


LATE_PAIRS = f"pairs that differ from token {LATE} on"
EVERYWHERE = "pairs that differ everywhere"
ROWS = [
    Row("forward_8x15", "forward, 8 × 15 tokens, all logits", 2.0, 1.3),
    Row("forward_1x15", "forward, 1 × 15 tokens, all logits", 4.0, 2.0),
    Row("forward_1x256", "forward, 1 × 256 tokens, all logits", 1.4, 1.25),
    Row("forward_1x1024", "forward, 1 × 1024 tokens, all logits", repeats=1),
    Row("cached_8x15", "run with full cache, 8 × 15", 2.0),
    Row("cached_1x1024", "run with full cache, 1 × 1024", repeats=1),
    Row(
        "resid_pre_late_given",
        f"resid_pre sweep, 8 {LATE_PAIRS}, caches given",
        80.0,
        cells=SWEEP,
    ),
    Row(
        "resid_pre_late_counted",
        "the same, both caches counted on both sides",
        50.0,
        cells=SWEEP,
    ),
    Row("resid_pre_everywhere", f"resid_pre sweep, 8 {EVERYWHERE}", 13.0, cells=SWEEP),
    Row("z_late", f"head sweep (z, all positions), {LATE_PAIRS}", 20.0, cells=HEADS),
    Row("z_everywhere", f"head sweep (z, all positions), {EVERYWHERE}", 8.0, cells=HEADS),
    Row("z_by_position_late", f"z by position, {LATE_PAIRS}", 80.0, cells=BY_POSITION),
]

# Targets that differ on AMD's processors, on which the peers' matrix library has slower kernels.
ON_AMD = {
    "forward_8x15": {"hugging_face": 3.0},
    "forward_1x15": {"hugging_face": 3.8},
    "forward_1x256": {"hugging_face": 2.7},
    "z_everywhere": {"transformer_lens": 15.0},
}


def on(processor: str, row: Row) -> Row:
    """The row with the targets of this kind of processor."""
    return replace(row, **ON_AMD.get(row.work, {})) if "AMD" in processor else row
