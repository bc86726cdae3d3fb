"""Is a new build as fast as an old one? Runs both builds' workers in turn on the works of rows.py,
checks that their values are equal to the bit, and writes a table of medians and ratios.

    cargo bench --bench peer_worker --no-run   # in a checkout of each build; prints the binary
    python3 old_new.py --old BINARY --new BINARY --rounds 7

Both processes are started anew in each round, since where a process's memory lies makes it some
per cent faster or slower than another of the same build for as long as it lives.
"""

import argparse
import array
import json
import random
import statistics
import struct
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from compare import REPEATS, Peer, make_setup
from rows import ROWS, Row

# Of a sweep in one process; a single one is 5 % off now and then.
SWEEP_REPEATS = 3

CONTEXT, VOCABULARY = 1024, 50257
SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768}
XL = {"n_layer": 48, "n_head": 25, "n_embd": 1600}


def config(sizes: dict[str, int]) -> dict:
    return sizes | {
        "model_type": "gpt2",
        "n_positions": CONTEXT,
        "vocab_size": VOCABULARY,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }


def shapes(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT-2."""
    d = sizes["n_embd"]
    m = 4 * d
    named = {"wte.weight": (VOCABULARY, d), "wpe.weight": (CONTEXT, d)}
    for layer in range(sizes["n_layer"]):
        block = {
            "ln_1.weight": (d,),
            "ln_1.bias": (d,),
            "attn.c_attn.weight": (d, 3 * d),
            "attn.c_attn.bias": (3 * d,),
            "attn.c_proj.weight": (d, d),
            "attn.c_proj.bias": (d,),
            "ln_2.weight": (d,),
            "ln_2.bias": (d,),
            "mlp.c_fc.weight": (d, m),
            "mlp.c_fc.bias": (m,),
            "mlp.c_proj.weight": (m, d),
            "mlp.c_proj.bias": (d,),
        }
        named |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    return named | {"ln_f.weight": (d,), "ln_f.bias": (d,)}


def write_checkpoint(directory: Path, sizes: dict[str, int] = SMALL) -> None:
    """A GPT-2 with random weights as its initialisation has them (standard deviation 0.02,
    LayerNorms 1 and 0), by the standard library alone: pieces of one long random row, since that
    many draws would take minutes."""
    rng = random.Random(0)
    row = array.array("f", (rng.gauss(0, 0.02) for _ in range(1 << 18)))
    assert sys.byteorder == "little" and row.itemsize == 4
    row = row.tobytes()
    header, end = {}, 0
    for name, shape in shapes(sizes).items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (directory / "config.json").write_text(json.dumps(config(sizes)))
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in header.items():
            begin, stop = tensor["data_offsets"]
            left = stop - begin
            if ".ln_" in f".{name}" or name.endswith("bias"):
                one = struct.pack("<f", float(name.endswith("weight")))
                file.write(one * (left // 4))
                continue
            while left:
                start = 4 * rng.randrange(len(row) // 8)
                piece = row[start : start + min(left, len(row) // 2)]
                file.write(piece)
                left -= len(piece)


def measure(
    builds: dict[str, str], rows: list[Row], setup: dict, rng: random.Random
) -> dict[str, dict[str, float]]:
    """Seconds by work and build, of processes started for this."""
    peers = [Peer(name, [binary, "--serve"], setup) for name, binary in builds.items()]
    found = {}
    for row in rows:
        seconds, values = defaultdict(list), {}
        # The first run is not counted.
        for i in range(1 + (SWEEP_REPEATS if row.is_sweep else REPEATS)):
            rng.shuffle(peers)
            for peer in peers:
                answer = peer.run(row.work)
                values[peer.name] = answer["values"]
                if i > 0:
                    seconds[peer.name].append(answer["seconds"])
        if values["old"] != values["new"]:
            sys.exit(f"{row.work}: the builds' values differ")
        found[row.work] = {name: statistics.median(s) for name, s in seconds.items()}
    for peer in peers:
        peer.close()
    return found


def table(rows: list[Row], rounds: list[dict[str, dict[str, float]]]) -> str:
    lines = [
        f"Median of {len(rounds)} rounds; in brackets the smallest and the largest ratio.",
        "",
        "| work | old | new | new / old |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        own = [measured[row.work] for measured in rounds]
        old, new = (statistics.median(m[build] for m in own) for build in ("old", "new"))
        ratios = sorted(m["new"] / m["old"] for m in own)
        ratio = f"{statistics.median(ratios):.3f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        lines.append(f"| {row.title} | {1e3 * old:.1f} ms | {1e3 * new:.1f} ms | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--old", required=True, help="the old build's worker")
    parser.add_argument("--new", required=True, help="the new build's worker")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="*", help="those that both builds know [default: all]")
    parser.add_argument("--out", type=Path, help="writes the table to this file, too")
    options = parser.parse_args()
    rng = random.Random(0)
    rows = [row for row in ROWS if options.works is None or row.work in options.works]
    builds = {"old": options.old, "new": options.new}
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(Path(directory))
        setup = make_setup(Path(directory))
        rounds = []
        for i in range(options.rounds):
            rounds.append(measure(builds, rows, setup, rng))
            print(f"round {i + 1} of {options.rounds}", file=sys.stderr)
    text = table(rows, rounds)
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
