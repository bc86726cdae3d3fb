"""Compares the effects of edges with TransformerLens's, on the same random GPT-2 small weights, and
ACDC with auto-circuit's on the shipped model; writes ../CIRCUITS.md. The Rust worker is built as
run.sh builds it:

    cargo bench --bench peer_worker --no-run
    python circuits.py --ours target/release/deps/peer_worker-... --auto-circuit .venv-ac/bin/python

auto-circuit needs an environment of its own, beside requirements.txt: `pip install --no-deps
auto-circuit==1.0.1 ordered-set attrs`.
"""

import argparse
import datetime
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

import report
from compare import HERE, Peer, make_setup, write_checkpoint
from rows import LATE, PAIRS

EDGES = 32_491
# Exact effects: whole studies of ours, and edges that the peer runs. Their targets.
EXACT = {"edges_everywhere": 22.0, "edges_late": 60.0}
ESTIMATES = {"eap": 3.0, "eap_ig_5": 3.0}
# By auto-circuit, on the shipped model.
SEARCHES = ("acdc_fine", "acdc_coarse")
# Ours alone.
OURS = ("receiver_exact", "receiver_exact_ig_5")
TITLES = {
    "edges_everywhere": "all exact edges of a pair that differs everywhere",
    "edges_late": f"all exact edges of a pair that differs from token {LATE} on",
    "eap": f"EAP, {PAIRS} pairs",
    "eap_ig_5": f"EAP-IG with 5 steps, {PAIRS} pairs",
    "acdc_fine": "ACDC at τ = 0.02, shipped model",
    "acdc_coarse": "ACDC at τ = 0.2, shipped model",
    "receiver_exact": f"receiver-exact, {PAIRS} pairs",
    "receiver_exact_ig_5": f"receiver-exact with 5 steps, {PAIRS} pairs",
}


def rounding(ours: list[float], theirs: dict, what: str) -> list[float]:
    """The largest difference of both from float64, relative to the largest effect. Effects are
    differences of logits, so that those of edges that do little are mostly rounding in f32."""
    exact = theirs["in_double"]
    scale = max(map(abs, exact))

    def error(values: list[float]) -> float:
        return max(abs(a - b) for a, b in zip(values, exact, strict=True)) / scale

    mine, peers = error(ours), error(theirs["values"])
    if mine > max(1e-5, 2 * peers):
        sys.exit(f"{what}: {mine:.1e} from float64, the peer {peers:.1e}")
    return [mine, peers]


def close(found: list[float], expected: list[float], what: str) -> float:
    scale = max(map(abs, expected))
    difference = max(abs(a - b) for a, b in zip(found, expected, strict=True)) / scale
    if difference > 1e-3:
        sys.exit(f"{what}: differs by {difference:.1e}")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the Rust worker's binary")
    parser.add_argument("--sample", type=int, default=48, help="edges that the peer runs")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each estimate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--auto-circuit", help="a Python that has auto-circuit 1.0.1")
    parser.add_argument("--only", nargs="*", choices=[*TITLES], default=[*TITLES])
    parser.add_argument("--out", type=Path, default=HERE.parent / "CIRCUITS.md")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    # One edge from each of equal parts of the list, which is in order of the receivers.
    part = EDGES / options.sample
    cells = [int(i * part) + rng.randrange(int(part)) for i in range(options.sample)]
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory))
        setup = make_setup(Path(directory)) | {"shipped": shipped()}
        ours = Peer("ours", [options.ours, "--serve"], setup)
        peer = Peer("transformer_lens", [sys.executable, str(HERE / "edge_worker.py")], setup)
        rates: list[float] = []

        def measure_rate() -> None:
            found = [ours.run("gemm") for _ in range(5)]
            rates.extend(a["multiply_adds"] / a["seconds"] for a in found)

        measure_rate()
        lines, worst, errors, kept, versions = [], 0.0, {}, [], []
        for work in options.only:
            if work in SEARCHES:
                if options.auto_circuit is None:
                    continue
                command = [options.auto_circuit, str(HERE / "acdc_worker.py")]
                searcher = Peer("auto_circuit", command, setup)
                theirs = searcher.run(work)
                mine = [ours.run(work) for _ in range(options.rounds)]
                seconds = statistics.median(answer["seconds"] for answer in mine)
                counts = [int(answer["values"][0]) for answer in (mine[0], theirs)]
                kept.append(f"{TITLES[work]}: {counts[0]} edges kept by ours, {counts[1]} by theirs")
                versions.append(searcher.ready["version"])
                searcher.close()
                lines.append(row(work, seconds, theirs["seconds"], None))
            elif work in EXACT:
                theirs = peer.run(work, cells)
                measure_rate()
                mine = ours.run(work)
                measure_rate()
                rate = statistics.median(rates[-10:])
                errors[work] = rounding([mine["values"][e] for e in cells], theirs, work)
                seconds = (theirs["fixed_seconds"] + theirs["cell_seconds"] * EDGES) / PAIRS
                lines.append(row(work, mine["seconds"], seconds, EXACT[work], mine, rate))
            else:
                mine, theirs = [], []
                answers = {}
                for _ in range(options.rounds):
                    answers["ours"] = ours.run(work)
                    mine.append(answers["ours"]["seconds"])
                    if work in ESTIMATES:
                        answers["peer"] = peer.run(work)
                        theirs.append(answers["peer"]["seconds"])
                if theirs:
                    pair = [answers[who]["values"] for who in ("peer", "ours")]
                    worst = max(worst, close(*pair, work))
                median = statistics.median
                lines.append(
                    row(work, median(mine), median(theirs) if theirs else None, ESTIMATES.get(work))
                )
            print(lines[-1], file=sys.stderr)
            # After each row, so that a run that is ended leaves what it has.
            names = [peer.ready["version"], *dict.fromkeys(versions)]
            about = text(ours, names, worst, errors, kept, statistics.median(rates), options)
            options.out.write_text(about + "\n".join([*report.table_head(HEAD), *lines]) + "\n")


def row(work, mine, theirs, target, answer=None, rate=None) -> str:
    cells = [TITLES[work], report.show(mine)]
    if theirs is None:
        cells += ["", "", "", ""]
    else:
        ratio = theirs / mine
        cells += [report.show(theirs), f"{ratio:.1f} ×"]
        cells += [f"{target:.0f} ×", report.yes(ratio >= target)] if target else ["", ""]
    if answer is None:
        cells += ["", "", ""]
    else:
        done, naive = answer["multiply_adds"], answer["naive_multiply_adds"]
        share = done / mine / rate
        cells += [f"{done / 1e9:.0f} G", f"{naive / done:.1f} ×", f"{100 * share:.0f} %"]
    return report.table_row(cells)


def shipped() -> dict:
    """The shipped model, and the prompt pairs of its goldens."""
    root = HERE.parents[1]
    pairs = json.loads((root / "tests/golden/mini/circuits.json").read_text())["pairs"]
    tokens = {kind: [pair[kind] for pair in pairs] for kind in ("clean", "corrupted")}
    return {"checkpoint": str(root / "assets/mini")} | tokens


HEAD = ["work", "patchlens", "peer", "ratio", "target", "reached"]
HEAD += ["multiply-adds", "fewer", "share of the rate"]


def text(ours, versions, worst, errors, kept, rate, options) -> str:
    now = datetime.datetime.now(datetime.UTC)
    rounded = "; ".join(
        f"{work.removeprefix('edges_')}, ours {mine:.0e}, theirs {peers:.0e}"
        for work, (mine, peers) in errors.items()
    )
    return f"""# Measured speed of edges

Written by `benches/peers/circuits.py` on {now:%Y-%m-%d %H:%M} UTC; load average at the end of the
run {os.getloadavg()[0]:.1f} (the run itself makes about 2).

- Machine: {report.machine()}.
- Versions: {"; ".join([ours.ready["version"], *versions])}.
- Both hold the same random weights of GPT-2 small's shape, in f32, and use {ours.ready["threads"]} threads;
  prompts have 15 tokens, the metric is a logit difference at the end.
- Values: the sampled exact effects are held against the peer's in float64. The largest difference,
  relative to the largest of these effects: {rounded or "not run"}. EAP and EAP-IG of both
  differ by {worst:.0e} of the largest value.
- Exact edges: ours are all {EDGES:,} of one pair, once, base runs included. TransformerLens runs a
  sample of {options.sample} (seed {options.seed}, one from each of equal parts of the list), each as a full pass of {PAIRS} pairs in one
  batch with a hook at the receiver's split input (split inputs are on for receivers that have one);
  its time is extrapolated to all edges, and divided by the number of pairs.
- EAP and EAP-IG: {PAIRS} pairs that differ everywhere, caches included; in TransformerLens by hooks at
  all split inputs, `torch.autograd.grad`, and one product per hook point; medians of {options.rounds} runs.
- ACDC: the four prompt pairs of the goldens as one batch, KL divergence at the last position; ours the
  median of {options.rounds} searches, auto-circuit one. Its order of edges within a layer is that of a
  set, ours that of the authors' program, so that circuits differ: {"; ".join(kept) or "not run"}.
- The machine's rate: {rate / 1e9:.1f} G multiply-adds a second, the median of this run (1024×768×3072
  by `patchlens::ops::matmul`); shares are of the median right before and after the row.
  Multiply-adds are those counted in the run, which must be those planned; `fewer`: than one full
  pass per edge.

"""


if __name__ == "__main__":
    main()
