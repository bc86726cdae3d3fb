"""Causal tracing of one fact on a model of GPT-2 XL's shape: patchlens against Hugging Face's
transformers driven as the authors' code does it. Writes ../results/KIND-xl.md and ../RESULTS.md.
Takes 7 GB of the disk and, one peer after the other, 7 GB of memory. The Rust worker is built as
run.sh builds it:

    cargo bench --bench peer_worker --no-run
    python xl.py --ours target/release/deps/peer_worker-...
"""

import argparse
import datetime
import os
import random
import sys
import tempfile
from pathlib import Path

import report
from compare import HERE, VOCABULARY, Peer
from old_new import XL, write_checkpoint

LAYERS, WIDTH = XL["n_layer"], XL["n_embd"]
TOKENS, SUBJECT, SAMPLES = 10, (1, 4), 10
NOISE = 0.1
WORKS = {
    "trace_states": "states",
    "trace_mlp": "MLP outputs in windows of 10 layers",
    "trace_attention": "attention outputs in windows of 10 layers",
}
# Ratio peer / ours at least, by processor, and the most memory of ours, in bytes.
TARGETS, MOST_BYTES = {"AMD": 12.0}, 7e9


def make_setup(directory: str) -> dict:
    rng = random.Random(0)
    subject = range(*SUBJECT)
    return {
        "checkpoint": directory,
        "fact": [rng.randrange(VOCABULARY) for _ in range(TOKENS)],
        "subject": SUBJECT,
        "noise": [
            [[rng.gauss(0, NOISE) for _ in range(WIDTH)] for _ in subject] for _ in range(SAMPLES)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the Rust worker's binary")
    parser.add_argument("--checkpoint", help="a folder of that shape; by default random weights are written")
    parser.add_argument("--sample", type=int, default=4, help="cells of each work that the peer runs")
    parser.add_argument("--out", type=Path, help="a file for this run alone, not RESULTS.md")
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as directory:
        if options.checkpoint is None:
            write_checkpoint(Path(directory), XL)
        setup = make_setup(options.checkpoint or directory)
        ours = Peer("ours", [options.ours, "--serve"], setup)
        mine = {work: ours.run(work) for work in WORKS}
        ours.close()
        print({work: mine[work]["seconds"] for work in WORKS}, file=sys.stderr)
        peer = Peer("transformers", [sys.executable, str(HERE / "rome_worker.py")], setup)
        part = LAYERS * TOKENS // options.sample
        cells = {
            work: [i * part + rng.randrange(part) for i in range(options.sample)] for work in WORKS
        }
        # What is measured first would warm up for all.
        peer.run("trace_states", [0])
        theirs = {work: peer.run(work, cells[work]) for work in WORKS}
        peer.close()
    worst = max(difference(mine[w]["values"], theirs[w]["values"], cells[w], w) for w in WORKS)
    text = section(ours, peer, mine, theirs, worst, options.sample)
    print(text)
    if options.out:
        options.out.write_text(text)
    else:
        report.RESULTS.mkdir(exist_ok=True)
        (report.RESULTS / f"{report.kind()}-xl.md").write_text(text)
        (HERE.parent / "RESULTS.md").write_text(report.assemble())


def difference(ours: list[float], theirs: list[float], cells: list[int], work: str) -> float:
    expected = [ours[cell] for cell in cells]
    scale = max(map(abs, expected))
    worst = max(abs(a - b) for a, b in zip(expected, theirs, strict=True)) / scale
    if worst > 1e-3:
        sys.exit(f"{work}: values differ by {worst:.1e}")
    return worst


def section(ours, peer, mine, theirs, worst: float, sample: int) -> str:
    cells = LAYERS * TOKENS
    lines = report.table_head(
        ["work", "patchlens", "transformers", "ratio", "multiply-adds", "fewer than full passes"]
    )
    sums = [0.0, 0.0]
    for work, title in WORKS.items():
        own, other = mine[work], theirs[work]["cell_seconds"] * cells
        sums[0] += own["seconds"]
        sums[1] += other
        done, naive = own["multiply_adds"], own["naive_multiply_adds"]
        lines.append(
            report.table_row(
                [
                    title,
                    f"{own['seconds']:.0f} s",
                    f"{other / 60:.1f} min",
                    f"{other / own['seconds']:.1f} ×",
                    f"{done / 1e12:.1f} T",
                    f"{naive / done:.1f} ×",
                ]
            )
        )
    ratio = sums[1] / sums[0]
    peak = max(answer["peak_bytes"] for answer in mine.values())
    target = next((t for name, t in TARGETS.items() if name in report.processor()), None)
    wanted = f" (target {target:g} ×: {report.yes(ratio >= target)})" if target else ""
    now = datetime.datetime.now(datetime.UTC)
    return f"""### Causal tracing on GPT-2 XL's shape, {report.processor()}

Written by `benches/peers/xl.py` on {now:%Y-%m-%d %H:%M} UTC; load average at the end of the run
{os.getloadavg()[0]:.1f} (the run itself makes about 2). One fact of {TOKENS} tokens, {SAMPLES} samples of noise on a subject
of {SUBJECT[1] - SUBJECT[0]} tokens, every layer and token: {cells} cells. Random weights, 2 threads, {ours.ready["version"]}.

The peer is {peer.ready["version"]}, driven as the authors' `trace_with_patch`
does it: a batch of {1 + SAMPLES} full passes for each layer and token. It runs {sample} cells of each work, one
from each of equal parts, extrapolated to all; ours runs whole studies, base runs included. The
largest difference of the probabilities, relative to the largest, is {worst:.0e}.

{chr(10).join(lines)}

All three: {ratio:.1f} ×{wanted}. Most memory of ours, weights included: {peak / 1e9:.2f} GB (target 7 GB: {report.yes(peak <= MOST_BYTES)}).
"""


if __name__ == "__main__":
    main()
