"""A client of the service lava.v1.Inference: prompts in; answers, and what their caches cost, out.

Model, Token, Usage and TransferStats are the service's own messages; the .proto file says what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec, TypedDict

import grpc

from . import inference_pb2 as pb
from .inference_pb2 import Model, Token, TransferStats, Usage
from .inference_pb2_grpc import InferenceStub

__all__ = [
    "Answer",
    "Client",
    "Completion",
    "Finish",
    "LavaError",
    "Message",
    "Model",
    "Piece",
    "Token",
    "TransferStats",
    "Usage",
]


class LavaError(Exception):
    """A call that the service refused, or that broke."""

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after  # seconds after which the same call may be taken in, if the service says


class Message(TypedDict):
    """A message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Finish:
    """Why and how a choice ended."""

    reason: str  # end_of_text, stop_string, stop_token, max_tokens or context
    stop: str  # the stop string that was met
    usage: Usage
    transfer: TransferStats
    budget: int  # entries per layer and KV head that the request's budget came to
    row_format: str  # how those that competed for it were stored


@dataclass(frozen=True)
class Piece:
    """A part of one choice; the last one has `finish`."""

    request_id: str
    choice: int
    text: str
    tokens: tuple[Token, ...]
    finish: Finish | None


@dataclass(frozen=True)
class Answer:
    """A whole choice."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish


@dataclass(frozen=True)
class Completion:
    """All choices of a request, in order."""

    request_id: str
    answers: tuple[Answer, ...]


Arguments = ParamSpec("Arguments")

# How urgent a request is where others wait for room too.
Priority = Literal["low", "normal", "high"]

def _gathered(
    generate: Callable[Concatenate[Client, Arguments], Iterable[Piece]],
) -> Callable[Concatenate[Client, Arguments], Completion]:
    def complete(client: Client, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Completion:
        """As `generate`, with the same arguments, but returns once everything is there."""
        choices: dict[int, list[Piece]] = {}
        for piece in generate(client, *args, **kwargs):
            choices.setdefault(piece.choice, []).append(piece)
        answers = tuple(_answer(choices[choice]) for choice in sorted(choices))
        return Completion(choices[0][0].request_id, answers)

    return complete


class Client:
    """A connection to the service at `address`, which is host:port. Use it in a `with` block, or close it."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = InferenceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls and the connection."""
        self._channel.close()

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that ready workers serve now."""
        with _errors():
            return list(self._stub.ListModels(pb.ListModelsRequest(), timeout=timeout).models)

    def tokenize(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        tokens: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> list[int]:
        """Token ids of a prompt, as `generate` would make them."""
        request = pb.TokenizeRequest(model=model, prompt=_prompt(prompt, messages, tokens))
        with _errors():
            return list(self._stub.Tokenize(request, timeout=timeout).ids)

    def generate(
        self,
        *,
        model: str,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        tokens: Sequence[int] | None = None,
        budget: int | None = None,
        budget_share_milli: int | None = None,
        budget_bytes: int | None = None,
        policy: str | None = None,
        row_format: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_end_of_text: bool = False,
        n: int | None = None,
        logprobs: int | None = None,
        priority: Priority = "normal",
        tenant: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Piece, None, None]:
        """Answers one of `prompt`, `messages` and `tokens`, piece by piece. At most one of `budget`,
        `budget_share_milli` and `budget_bytes` can be given. The call begins with the first piece
        that is asked for. It is cancelled when the iterator is dropped (or closed), as by a `break`, and after
        `timeout` seconds. What is left out is up to the server; see the .proto file for the rest."""
        if sum(form is not None for form in (budget, budget_share_milli, budget_bytes)) > 1:
            raise TypeError("expected at most one of budget, budget_share_milli and budget_bytes")
        sampling = pb.Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            seed=seed,
        )
        request = pb.GenerateRequest(
            model=model,
            prompt=_prompt(prompt, messages, tokens),
            max_tokens=max_tokens,
            sampling=sampling,
            stop=[stop] if isinstance(stop, str) else stop,
            stop_token_ids=stop_token_ids,
            ignore_end_of_text=ignore_end_of_text,
            policy=policy,
            row_format=row_format,
            budget=budget,
            budget_share_milli=budget_share_milli,
            budget_bytes=budget_bytes,
            n=n,
            logprobs=logprobs,
            priority=f"PRIORITY_{priority.upper()}",
        )
        return self._pieces(request, tenant, timeout)

    complete = _gathered(generate)

    def _pieces(
        self, request: pb.GenerateRequest, tenant: str | None, timeout: float | None
    ) -> Generator[Piece, None, None]:
        metadata = None if tenant is None else (("x-lava-tenant", tenant),)
        call = self._stub.Generate(request, timeout=timeout, metadata=metadata)
        try:
            with _errors():
                for response in call:
                    yield _piece(response)
        finally:
            call.cancel()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise LavaError(error.code(), error.details() or "", _retry_after(error)) from error


def _retry_after(error: grpc.RpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and value.isdecimal():
            return int(value) / 1000
    return None


def _prompt(text: str | None, messages: Sequence[Message] | None, ids: Sequence[int] | None) -> pb.Prompt:
    if sum(form is not None for form in (text, messages, ids)) != 1:
        raise TypeError("expected exactly one of prompt, messages and tokens")
    if messages is not None:
        return pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(**message) for message in messages]))
    if ids is not None:
        return pb.Prompt(tokens=pb.TokenIds(ids=ids))
    return pb.Prompt(text=text)


def _piece(response: pb.GenerateResponse) -> Piece:
    finish = None
    if response.HasField("finish"):
        end = response.finish
        reason = pb.FinishReason.Name(end.reason).removeprefix("FINISH_REASON_").lower()
        finish = Finish(reason, end.stop, end.usage, end.transfer, end.budget, end.row_format)
    return Piece(response.request_id, response.choice, response.text, tuple(response.tokens), finish)


def _answer(pieces: list[Piece]) -> Answer:
    finish = pieces[-1].finish
    assert finish is not None, "a choice ends with a message that has finish"
    text = "".join(piece.text for piece in pieces)
    return Answer(text, tuple(token for piece in pieces for token in piece.tokens), finish)
