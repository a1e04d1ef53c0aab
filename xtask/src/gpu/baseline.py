"""Prefill and decode of a GGUF model in Transformers, and of kvpress where it is installed; JSON in the last line."""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache

PREFILL_TOKENS = [512, 2048, 7000]
DECODE_TOKENS = [512, 7000]
BATCHES = [1, 8, 32]
STEPS = 32
ROUNDS = 3


def seconds(work):
    """Median of some rounds, after one that warms up."""
    times = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def ids(model, batch, tokens):
    generator = torch.Generator(device="cpu").manual_seed(0)
    numbers = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)
    return numbers.to(model.device)


def prefill(model, tokens):
    prompt = ids(model, 1, tokens)

    def once():
        model(prompt, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)

    return tokens / seconds(once)


def decode(model, tokens, batch):
    cache = DynamicCache()
    model(ids(model, batch, tokens), past_key_values=cache, use_cache=True, logits_to_keep=1)
    last = ids(model, batch, 1)

    def steps():
        for _ in range(STEPS):
            model(last, past_key_values=cache, use_cache=True)

    return batch * STEPS / seconds(steps)


def press(model, tokens, kept):
    """Prefill with the press that is nearest to ours, if there is one."""
    try:
        from kvpress import AdaKVPress, SnapKVPress
    except ImportError:
        return None
    prompt = ids(model, 1, tokens)
    chosen = AdaKVPress(SnapKVPress(compression_ratio=1 - kept / tokens, window_size=32))

    def once():
        with chosen(model):
            model(prompt, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)

    try:
        return tokens / seconds(once)
    except Exception as error:  # what a version of kvpress cannot do is a figure that is not there
        print(f"kvpress at {tokens} tokens: {error}")
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", type=int, default=0)
    options = parser.parse_args()
    folder, _, file = options.model.rpartition("/")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    model = model.to(f"cuda:{options.device}").eval()
    found = {"torch": torch.__version__, "prefill": [], "decode": []}
    with torch.inference_mode():
        for tokens in PREFILL_TOKENS:
            line = {"prompt_tokens": tokens, "tokens_per_second": prefill(model, tokens)}
            for kept in (128, 1024):
                if kept < tokens:
                    line[f"kvpress_{kept}_tokens_per_second"] = press(model, tokens, kept)
            print("prefill", line, flush=True)
            found["prefill"].append(line)
        for tokens in DECODE_TOKENS:
            for batch in BATCHES:
                rate = decode(model, tokens, batch)
                line = {"prompt_tokens": tokens, "batch": batch, "tokens_per_second": rate}
                print("decode", line, flush=True)
                found["decode"].append(line)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
