"""Speed of llama.cpp on a GGUF file, as one JSON object on standard output.

Uses llama-cpp-python with the library's defaults but for threads and batch: keys and values in half precision,
no flash attention. Prompts are arbitrary ids, as those of `lava bench engine`; times include nothing but `eval`.
`cargo xtask performance --part llama` calls it; by hand: python llama_cpp.py --model FILE --threads 2.
"""

import argparse
import json
import sys
import time
from pathlib import Path

# This folder is the first on the path, and this file has the package's name.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from llama_cpp import Llama, __version__  # noqa: E402

# Ids that follow each other far apart; every vocabulary has more than these.
STRIDE = 7919
# Tokens of the prompt that is not counted.
WARM_UP_TOKENS = 200
# Ids that are fed in turn while decoding.
FED = 100


def lengths(text):
    return [int(part) for part in text.split(",") if part]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=512, help="tokens of a prompt that are computed at once (n_batch)")
    parser.add_argument("--prefill-tokens", type=lengths, default=[512, 2048], help="lengths of prompts, with commas")
    parser.add_argument("--decode-tokens", type=lengths, default=[8, 512], help="tokens before those that are decoded")
    parser.add_argument("--steps", type=int, default=16, help="tokens that are decoded")
    return parser.parse_args()


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Engine:
    def __init__(self, options):
        longest = max(options.prefill_tokens + options.decode_tokens + [WARM_UP_TOKENS])
        self.steps = options.steps
        self.llama = Llama(
            model_path=options.model,
            n_ctx=longest + 1 + options.steps,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            n_batch=options.batch,
            verbose=False,
        )

    def prompt(self, tokens):
        vocabulary = self.llama.n_vocab()
        return [i * STRIDE % vocabulary for i in range(tokens)]

    def prefill(self, tokens):
        """Tokens per second of a prompt."""
        prompt = self.prompt(tokens)
        self.llama.reset()
        return tokens / seconds(lambda: self.llama.eval(prompt))

    def decode(self, tokens):
        """Tokens per second of some steps behind a prompt and one step that is not counted."""
        self.prefill(tokens)
        self.llama.eval([FED])

        def steps():
            for step in range(self.steps):
                self.llama.eval([step % FED])

        return self.steps / seconds(steps)


def main():
    options = arguments()
    engine = Engine(options)
    engine.prefill(WARM_UP_TOKENS)
    measured = {
        kind: [{"prompt_tokens": n, "tokens_per_second": measure(n)} for n in counts]
        for kind, counts, measure in [
            ("prefill", options.prefill_tokens, engine.prefill),
            ("decode", options.decode_tokens, engine.decode),
        ]
    }
    json.dump({"version": __version__, **measured}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
