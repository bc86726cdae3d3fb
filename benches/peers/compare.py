"""Runs all peers in turn on the same work, and writes the table. See run.sh."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import report
from rows import LATE, LENGTH, PAIRS, ROWS, Row

HERE = Path(__file__).resolve().parent
VOCABULARY = 50257
# Cells of a sweep that a peer runs in each round.
SAMPLE = 6
# How often our forward passes and their bare products run in each round.
REPEATS = 5
# How often the builds with and without hook calls are started in each round, and how often each
# then runs.
HOOKS_STARTS = 2
HOOKS_REPEATS = 10
PRODUCTS = ("products_15", "products_120", "products_256")


class Peer:
    """A worker process; it answers requests one by one."""

    def __init__(self, name: str, command: list[str], setup: dict):
        self.name = name
        threads = {"RAYON_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("VERBOSE") else subprocess.DEVNULL,
            text=True,
            env=os.environ | threads,
        )
        self.ready = self._ask(setup)

    def run(self, work: str, cells: list[int] | None = None) -> dict:
        return self._ask({"work": work, "cells": cells})

    def close(self) -> None:
        """Ends the process, and with it the memory it holds."""
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, message: dict) -> dict:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended; run with VERBOSE=1 to see why")
        return json.loads(line)


def make_setup(checkpoint: Path) -> dict:
    """The same prompts for all: clean ones, two kinds of corrupted ones, and a long one."""
    rng = random.Random(0)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(n)]

    clean = [tokens(LENGTH) for _ in range(PAIRS)]
    return {
        "checkpoint": str(checkpoint),
        "clean": clean,
        "late": [prompt[:LATE] + tokens(LENGTH - LATE) for prompt in clean],
        "everywhere": [tokens(LENGTH) for _ in clean],
        "long": tokens(1024),
        "metric": tokens(2),
    }


def write_checkpoint(directory: Path) -> None:
    code = (
        "import sys, torch; from transformers import GPT2Config, GPT2LMHeadModel; "
        "torch.manual_seed(0); GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, directory], check=True, capture_output=True)


class Comparison:
    """The peers, and all answers so far."""

    def __init__(self, ours: Peer, peers: list[Peer], seed: int = 0):
        self.ours, self.peers = ours, peers
        self.answers: dict[tuple[str, str], list[dict]] = defaultdict(list)
        # By work: one entry a start, the median seconds of each build.
        self.hooks: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.rng = random.Random(seed)

    def ask(self, peer: Peer, work: str, cells: list[int] | None = None) -> dict:
        answer = peer.run(work, cells)
        self.answers[peer.name, work].append(answer)
        return answer

    def check(self) -> float:
        """Compares values of all rows among the peers; gives the largest relative difference."""
        worst = 0.0
        for row in ROWS:
            ours = self.ours.run(row.work)["values"]
            cells = self.sample(row) if row.is_sweep else None
            expected = [ours[i] for i in cells] if cells else ours
            for peer in self.peers_of(row):
                found = peer.run(row.work, cells)["values"]
                scale = max(map(abs, expected))
                difference = max(abs(a - b) for a, b in zip(expected, found, strict=True)) / scale
                if difference > 1e-3:
                    sys.exit(f"{row.work}: {peer.name} differs by {difference:.1e}")
                worst = max(worst, difference)
        return worst

    def peers_of(self, row: Row) -> list[Peer]:
        return [p for p in self.peers if p.name != "hugging_face" or row.is_forward]

    def sample(self, row: Row) -> list[int]:
        """One cell from each of equal parts of the grid."""
        part = row.cells // SAMPLE
        return [i * part + self.rng.randrange(part) for i in range(SAMPLE)]

    def round(self) -> None:
        self.ask(self.ours, "gemm")
        for row in ROWS:
            everyone = [self.ours, *self.peers_of(row)]
            for _ in range(1 if row.is_sweep else row.repeats):
                self.rng.shuffle(everyone)
                for peer in everyone:
                    sampled = row.is_sweep and peer is not self.ours
                    self.ask(peer, row.work, self.sample(row) if sampled else None)
        pairs = ["forward_16x16", "forward_1x256", "forward_8x15", "forward_1x15", *PRODUCTS]
        for _ in range(REPEATS):
            self.rng.shuffle(pairs)
            for work in pairs:
                self.ask(self.ours, work)

    def hooks_round(self, builds: dict[str, str], setup: dict) -> None:
        """Processes of the same history, started anew, since where one's memory lies makes it some
        per cent faster or slower than another of the same build for as long as it lives. A second
        process of the first build tells how much of that is left; bare products, which call no
        hooks, how much the compiler makes of the rest of the crate."""
        started = [Peer(name, [binary, "--serve"], setup) for name, binary in self.shuffled(builds)]
        for work in ("forward_8x15", "products_120", "forward_1x15", "products_15"):
            seconds = defaultdict(list)
            for _ in range(HOOKS_REPEATS):
                self.rng.shuffle(started)
                for peer in started:
                    seconds[peer.name].append(peer.run(work)["seconds"])
            self.hooks[work].append({k: statistics.median(v) for k, v in seconds.items()})
        for peer in started:
            peer.close()

    def shuffled(self, builds: dict[str, str]) -> list[tuple[str, str]]:
        return self.rng.sample(list(builds.items()), len(builds))

    def medians(self) -> dict[tuple[str, str], float]:
        """Seconds by (peer, work), a peer's sweeps extrapolated from the cells it ran."""
        cells = {row.work: row.cells for row in ROWS}

        def seconds(work: str, answer: dict) -> float:
            if "cell_seconds" not in answer:
                return answer["seconds"]
            return answer["fixed_seconds"] + answer["cell_seconds"] * cells[work]

        return {
            key: statistics.median(seconds(key[1], a) for a in answers)
            for key, answers in self.answers.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the Rust worker's binary")
    parser.add_argument("--without-hooks", help="the same built without hook calls")
    parser.add_argument("--bridge", help="a Python that has TransformerLens 4: one more column")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--full", action="store_true", help="also run TransformerLens's whole resid_pre sweep once"
    )
    parser.add_argument("--out", type=Path, help="a file for this run alone, not RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory))
        setup = make_setup(Path(directory))
        worker = str(HERE / "worker.py")
        ours = Peer("ours", [options.ours, "--serve"], setup)
        peers = [
            Peer(name, [python, worker, name], setup)
            for name, python in {
                "transformer_lens": sys.executable,
                "hugging_face": sys.executable,
                "bridge": options.bridge,
            }.items()
            if python
        ]
        comparison = Comparison(ours, peers)
        difference = comparison.check()
        print(f"all peers agree to {difference:.1e}", file=sys.stderr)
        builds = {}
        if options.without_hooks:
            builds = {"with": options.ours, "again": options.ours, "without": options.without_hooks}
        for i in range(options.rounds):
            comparison.round()
            for _ in range(HOOKS_STARTS if builds else 0):
                comparison.hooks_round(builds, setup)
            print(f"round {i + 1} of {options.rounds}", file=sys.stderr)
        full = None
        if options.full:
            full = peers[0].run("resid_pre_late_given")
        text = report.write(comparison, difference, full, options.rounds)
        print(text)
        if options.out:
            options.out.write_text(text)
        else:
            report.RESULTS.mkdir(exist_ok=True)
            (report.RESULTS / f"{report.kind()}.md").write_text(text)
            (HERE.parent / "RESULTS.md").write_text(report.assemble())


if __name__ == "__main__":
    main()
