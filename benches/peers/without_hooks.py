"""Copies the crate and takes every hook call out of the forward pass: what the same pass costs
without hooks. Prints the copy's path, which lies in cargo's target directory."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Functions of `src/model` through which all hooks and the recorder are reached, and what is
# left of their bodies.
EMPTIED = {
    "visit": "",
    "visit_lane": "",
    "visit_attention": "",
    "record": "",
    "record_attention": "",
    "results": "",
    "wanted": "false",
    "wanted_by_any": "false",
    "recorded": "false",
    "attention_shown": "false",
}


def main() -> None:
    crate = Path(sys.argv[1]).resolve()
    metadata = ["cargo", "metadata", "--format-version=1", "--no-deps"]
    output = subprocess.run(metadata, cwd=crate, capture_output=True, check=True).stdout
    copy = Path(json.loads(output)["target_directory"]) / "without-hooks"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("Cargo.toml", "Cargo.lock", "README.md"):
        copy.mkdir(parents=True, exist_ok=True)
        if (crate / name).exists():
            shutil.copy(crate / name, copy / name)
    for name in ("src", "assets", "templates", "benches", "examples", "tests"):
        ignore = shutil.ignore_patterns(".venv", "__pycache__")
        if (crate / name).exists():
            shutil.copytree(crate / name, copy / name, ignore=ignore)
    left = dict(EMPTIED)
    for file in sorted((copy / "src/model").glob("*.rs")):
        if file.name == "hooks.rs":  # the trait itself stays
            continue
        text = file.read_text()
        for name, body in EMPTIED.items():
            text, count = empty(text, name, body)
            if count:
                left.pop(name, None)
        file.write_text(text)
    if left:
        sys.exit(f"functions not found in src/model: {', '.join(left)}")
    # What nothing calls any more is no longer used; that is the purpose.
    library = copy / "src/lib.rs"
    text = library.read_text()
    library.write_text(re.sub(r"^(mod|pub mod)", r"#![allow(unused, dead_code)]\n\n\1", text, count=1, flags=re.M))
    print(copy)


def empty(text: str, name: str, body: str) -> tuple[str, int]:
    """Replaces the body of the methods of this name that take `&self` or `&mut self` in a pass."""
    pattern = re.compile(rf"^    (?:pub\(super\) |pub\(crate\) |pub )?fn {name}\(.*?^    }}$", re.M | re.S)

    def replace(match: re.Match[str]) -> str:
        head = match.group(0).split("{", 1)[0]
        return f"{head}{{\n        {body}\n    }}"

    return pattern.subn(replace, text)


if __name__ == "__main__":
    main()
