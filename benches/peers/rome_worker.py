"""Traces one fact with Hugging Face's transformers as the authors of causal tracing do
(`trace_with_patch` of Meng et al. 2022): for each layer and token a batch of full passes, one clean
and one per sample of the noise, in which hooks corrupt the subject's embeddings and put clean states
back. Answers requests of JSON lines as worker.py does; `xl.py` drives it.
"""

import json
import os
import sys
import time
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import GPT2LMHeadModel

THREADS = 2
WINDOW = 10


class Tracer:
    def __init__(self, setup: dict):
        self.model = GPT2LMHeadModel.from_pretrained(
            setup["checkpoint"], attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.noise = torch.tensor(setup["noise"])
        self.subject = slice(*setup["subject"])
        samples = len(setup["noise"])
        self.tokens = torch.tensor([setup["fact"]] * (1 + samples))
        clean = self.model(self.tokens[:1], use_cache=False).logits
        self.answer = clean[0, -1].argmax().item()

    def trace(self, places: list, token: int) -> float:
        """The answer's probability, mean over the corrupted runs, with the clean outputs of some
        modules at one token."""
        handles = [self.model.transformer.wte.register_forward_hook(self.corrupt)]

        def restore(module, inputs, output):
            states = output[0] if isinstance(output, tuple) else output
            states[1:, token] = states[0, token]

        handles += [place.register_forward_hook(restore) for place in places]
        logits = self.model(self.tokens, use_cache=False).logits
        for handle in handles:
            handle.remove()
        return torch.softmax(logits[1:, -1], dim=1)[:, self.answer].mean().item()

    def corrupt(self, module, inputs, output):
        output[1:, self.subject] += self.noise

    def run(self, work: str, cells: list[int]) -> dict:
        blocks = self.model.transformer.h
        values = []
        start = time.perf_counter()
        for cell in cells:
            token, layer = divmod(cell, len(blocks))
            window = range(max(0, layer - WINDOW // 2), min(len(blocks), layer + WINDOW // 2))
            places = {
                "trace_states": [blocks[layer]],
                "trace_mlp": [blocks[i].mlp for i in window],
                "trace_attention": [blocks[i].attn for i in window],
            }[work]
            values.append(self.trace(places, token))
        seconds = time.perf_counter() - start
        return {"cell_seconds": seconds / len(cells), "values": values}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        tracer = Tracer(json.loads(sys.stdin.readline()))
        packages = ("transformers", "torch")
        ready = {"version": ", ".join(f"{p} {version(p)}" for p in packages)}
        print(json.dumps(ready), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            answer = tracer.run(request["work"], request["cells"])
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
