"""The report of a comparison, in Markdown."""

import datetime
import os
import platform
import re
import statistics
from pathlib import Path

from rows import ROWS, Row, on

TITLES = {
    "transformer_lens": "TransformerLens",
    "hugging_face": "HF eager",
    "bridge": "TL bridge",
}


RESULTS = Path(__file__).parent.parent / "results"


def write(comparison, difference: float, full: dict | None, rounds: int) -> str:
    """What was measured on this kind of processor; `assemble` puts it with the others."""
    medians = comparison.medians()
    sections = [
        heading(comparison, difference, rounds),
        peers_table(comparison, medians),
        sampling(comparison, medians, full),
        work_table(comparison, medians),
        within(comparison, medians),
        loading(comparison),
    ]
    return "\n".join(section for section in sections if section)


def assemble() -> str:
    """All that was measured so far, by kind of processor, and what is to be said of it."""
    measured = [file.read_text() for file in sorted(RESULTS.glob("*.md"), key=lambda f: f.stem)]
    notes = (Path(__file__).parent / "notes.md").read_text()
    return "\n".join([INTRODUCTION, *measured, GROWTH, notes])


def kind() -> str:
    """The name of this kind of processor's files: `amd-epyc`."""
    words = re.sub(r"\([^)]*\)", " ", processor())
    return "-".join(re.findall(r"[a-z0-9]+", words.lower()))


INTRODUCTION = """# Measured speed

Ratios to other libraries depend on the processor, since the matrix library that they use has slower
kernels on AMD's: there is a section for each kind that was met, written by `benches/peers/run.sh`
(and `xl.py`, for GPT-2 XL's shape) on a machine of that kind.
"""

GROWTH = """## How cost grows

Drawn by `cargo bench --bench growth` in a run of its own (medians of 3 runs, GPT-2 small's shape).
These pictures are of patchlens 0.1.0, of the day and the pace of the section on Intel above: read the
curves' shapes from them, and times from the tables. Sweeps are over pairs that differ everywhere, with
caches given; pairs that differ late cost a fraction of that.

| one forward pass by tokens | by prompts |
| --- | --- |
| ![](growth/tokens.svg) | ![](growth/prompts.svg) |

| by layers | `resid_pre` sweep by cells | by prompt pairs |
| --- | --- | --- |
| ![](growth/layers.svg) | ![](growth/cells.svg) | ![](growth/pairs.svg) |
"""


def heading(comparison, difference: float, rounds: int) -> str:
    peers = [comparison.ours, *comparison.peers]
    versions = "; ".join(peer.ready["version"] for peer in peers)
    now = datetime.datetime.now(datetime.UTC)
    return f"""## {processor()}

Written by `benches/peers/run.sh` on {now:%Y-%m-%d %H:%M} UTC; load average at the end of the run
{os.getloadavg()[0]:.1f} (the run itself makes about 2).

- Machine: {machine()}.
- Versions: {versions}; Python {platform.python_version()}.
- All peers hold the same random weights of GPT-2 small's shape, in f32, and use {peers[0].ready["threads"]} threads.
  Before anything was timed, their logits and sweep results were compared: the largest difference
  relative to the largest value is {difference:.0e}.
- Peers take turns, in random order; figures are medians over {rounds} rounds (forward passes: 5 in
  each round, 1 of 1,024 tokens). Python peers run under `torch.inference_mode()`.
"""


def processor() -> str:
    return cpu_info("model name") or "unknown processor"


def cpu_info(wanted: str) -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == wanted:
            return value.strip()
    return ""


def machine() -> str:
    flags = cpu_info("flags").split()
    vectors = ", AVX-512" if "avx512f" in flags else ", AVX2" if "avx2" in flags else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor()}, {os.cpu_count()} cores{vectors}, {memory:.0f} GiB, {platform.system()}"


def peers_table(comparison, medians) -> str:
    names = [peer.name for peer in comparison.peers]
    columns = ["work", "patchlens"]
    for name in names:
        columns += [TITLES[name], "ratio"]
    lines = ["### Against other libraries", "", *table_head([*columns, "target", "reached"])]
    for row in (on(processor(), row) for row in ROWS):
        ours = medians["ours", row.work]
        cells = [row.title, show(ours)]
        for name in names:
            theirs = medians.get((name, row.work))
            found = [show(theirs), f"{theirs / ours:.2f} ×"] if theirs else ["", ""]
            cells += found
        cells += [targets(row), reached(row, medians)]
        lines.append(table_row(cells))
    for tokens, target in (("8 × 15", 0.10), ("1 × 1024", None)):
        shape = tokens.replace(" × ", "x")
        overhead = medians["ours", f"cached_{shape}"] / medians["ours", f"forward_{shape}"] - 1
        cells = [f"full cache over our own plain forward, {tokens}", f"{100 * overhead:+.1f} %"]
        cells += [""] * (2 * len(names))
        cells += [f"≤ {100 * target:.0f} %", yes(overhead <= target)] if target else ["", ""]
        lines.append(table_row(cells))
    return "\n".join([*lines, ""])


def targets(row: Row) -> str:
    wanted = {"TL": row.transformer_lens, "HF": row.hugging_face}
    return ", ".join(f"{target:g} × {peer}" for peer, target in wanted.items() if target)


def reached(row: Row, medians) -> str:
    ours = medians["ours", row.work]
    wanted = {"transformer_lens": row.transformer_lens, "hugging_face": row.hugging_face}
    if not any(wanted.values()):
        return ""
    missed = [
        TITLES[name]
        for name, target in wanted.items()
        if target and medians[name, row.work] / ours < target
    ]
    return f"no ({', '.join(missed)})" if missed else "yes"


def sampling(comparison, medians, full: dict | None) -> str:
    """How the sweeps of the peers were extrapolated, and how steady the time of a cell is."""
    cells = [
        a["cell_seconds"]
        for (peer, work), answers in comparison.answers.items()
        for a in answers
        if peer == "transformer_lens" and work.startswith(("resid_pre", "z_"))
    ]
    low, high = min(cells), max(cells)
    text = f"""Sweeps of the peers are measured on a sample in each round (6 cells, one from each sixth of the
grid, by `patching.generic_activation_patch` with an `index_df`) and extrapolated to all cells;
theirs runs one full pass per cell, whatever the cell. TransformerLens's seconds per cell over all
samples: median {statistics.median(cells):.3f}, from {low:.3f} to {high:.3f}. Ours are whole sweeps.
"""
    if full:
        extrapolated = medians["transformer_lens", "resid_pre_late_given"]
        text += f"""The whole resid_pre sweep, run once by TransformerLens: {show(full["seconds"])}; extrapolated:
{show(extrapolated)}.
"""
    return text


def work_table(comparison, medians) -> str:
    rate = gemm_rate(comparison)
    lines = [
        "### Work done",
        "",
        f"The machine's rate in this run: {rate:.1f} G multiply-adds a second (1024×768×3072 by",
        "`patchlens::ops::matmul`, 2 threads). Ours, per row: multiply-adds done, those of one full",
        "pass per cell and prompt, and the share of the machine's rate.",
        "",
        *table_head(["work", "multiply-adds", "naive", "fewer", "share of the rate"]),
    ]
    for row in ROWS:
        answer = comparison.answers["ours", row.work][-1]
        done, naive = answer["multiply_adds"] / 1e9, answer["naive_multiply_adds"] / 1e9
        share = done / medians["ours", row.work] / rate
        fewer = f"{naive / done:.1f} ×" if row.is_sweep else ""
        lines.append(
            table_row([row.title, f"{done:.2f} G", f"{naive:.1f} G", fewer, f"{100 * share:.0f} %"])
        )
    return "\n".join([*lines, ""])


def gemm_rate(comparison) -> float:
    answers = comparison.answers["ours", "gemm"]
    return statistics.median(a["multiply_adds"] / a["seconds"] for a in answers) / 1e9


def within(comparison, medians) -> str:
    """Our forward pass against its own parts."""
    lines = ["### Within the forward pass", "", *table_head(["ratio", "found", "target", "reached"])]
    products = {
        "16 × 16": ("forward_16x16", "products_256"),
        "1 × 256": ("forward_1x256", "products_256"),
        "8 × 15": ("forward_8x15", "products_120"),
        "1 × 15": ("forward_1x15", "products_15"),
    }
    target = 1.05
    for shape, (forward, bare) in products.items():
        ratio = medians["ours", forward] / medians["ours", bare]
        title = f"forward over its bare matrix products, {shape} tokens"
        lines.append(table_row([title, f"{ratio:.3f}", f"≤ {target}", yes(ratio <= target)]))
    for shape, bare in (("8x15", "products_120"), ("1x15", "products_15")):
        starts = comparison.hooks.get(f"forward_{shape}")
        if starts:
            tokens = f"{shape.replace('x', ' × ')} tokens"
            ratio, text = of_starts(starts, "with", "without")
            cells = [f"no hooks over a build without hook calls, {tokens}", text, "1 ± 0.01"]
            lines.append(table_row([*cells, yes(abs(ratio - 1) <= 0.01)]))
            _, text = of_starts(comparison.hooks[bare], "with", "without")
            lines.append(table_row([f"the same of its bare products, {tokens}", text, "", ""]))
            _, text = of_starts(starts, "with", "again")
            lines.append(table_row([f"no hooks over itself, {tokens}", text, "", ""]))
    explained = PRODUCTS + (WITHOUT_HOOKS if comparison.hooks else "")
    return "\n".join([*lines, "", explained])


PRODUCTS = """Bare matrix products: those with c_attn, both c_proj, c_fc and the unembedding, through
`patchlens::ops::linear` on the model's own weights; products inside attention heads count as
overhead.
"""
WITHOUT_HOOKS = """
The build without hook calls is a copy of the crate in which every function of
`src/model` that calls hooks or the recorder is emptied (`without_hooks.py`); medians and ranges of
the ratio over several starts of both, since a process keeps the place of its memory. The same
ratio between two processes of one build tells what such a figure is worth, and that of bare
products, which call no hooks, what the compiler makes of the same source in another crate.
"""


def of_starts(starts: list[dict[str, float]], one: str, other: str) -> tuple[float, str]:
    """The median of the ratio of two builds over all starts, and that with its range."""
    ratios = [start[one] / start[other] for start in starts]
    median = statistics.median(ratios)
    return median, f"{median:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def loading(comparison) -> str:
    ready = comparison.ours.ready
    peak = ready.get("peak_bytes")
    memory = f"; most memory held until then: {peak / 1e6:.0f} MB" if peak else ""
    return f"""### Loading

`Transformer::open` on the 548 MB checkpoint (f32, in the file cache): {show(ready["load_seconds"])}{memory}.
"""


def show(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def yes(reached: bool) -> str:
    return "yes" if reached else "no"


def table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table_head(columns: list[str]) -> list[str]:
    return [table_row(columns), table_row(["---"] * len(columns))]
