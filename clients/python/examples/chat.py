"""Prints an answer as it comes, and what its cache cost on the way between the workers.

    python examples/chat.py localhost:7070 "Why is the sky blue?" --budget 128
"""

import argparse
import sys

from lava_client import Client, LavaError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address", help="host:port of the service")
    parser.add_argument("question")
    parser.add_argument("--model", help="default: the first that is served")
    parser.add_argument("--budget", type=int, help="entries kept per layer and head")
    parser.add_argument("--max-tokens", type=int, default=256)
    options = parser.parse_args()

    with Client(options.address) as client:
        model = options.model
        if model is None:
            models = client.models()
            if not models:
                sys.exit("no model is served")
            model = models[0].name
        answer = client.generate(
            model=model,
            messages=[{"role": "user", "content": options.question}],
            budget=options.budget,
            max_tokens=options.max_tokens,
        )
        for piece in answer:
            print(piece.text, end="", flush=True)
            if piece.finish:
                cost = piece.finish.transfer
                print(f"\n\nshipped {cost.shipped_bytes} bytes; the full cache has {cost.full_bytes}")


if __name__ == "__main__":
    try:
        main()
    except LavaError as error:
        sys.exit(str(error))
