"""Requests over HTTP, and streamed completions with the moment of every piece."""

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional

# A cold prompt on a slow machine can take minutes until its first token.
TIMEOUT_S = 1800


class ServerError(Exception):
    """The server refused a request, broke off a stream, or is not there."""


@dataclass
class Reply:
    """What came back. Moments are seconds of `time.monotonic`."""

    submitted_at: float
    ended_at: float = 0.0
    text: str = ""
    pieces_at: List[float] = field(default_factory=list)
    token_ids: List[int] = field(default_factory=list)
    token_texts: List[str] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    timings: Dict[str, Any] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def ttft_s(self) -> Optional[float]:
        return self.pieces_at[0] - self.submitted_at if self.pieces_at else None

    @property
    def gaps_s(self) -> List[float]:
        return [after - before for before, after in zip(self.pieces_at, self.pieces_at[1:])]

    @property
    def tpot_s(self) -> Optional[float]:
        """Mean time of a token after the first. A piece can hold several tokens, so the server's count divides."""
        count = self.completion_tokens or len(self.pieces_at)
        if count < 2 or len(self.pieces_at) < 2:
            return None
        return (self.pieces_at[-1] - self.pieces_at[0]) / (count - 1)


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)


def call(port: int, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
    """A request with a whole JSON reply: POST with a body, else GET."""
    connection = _connect(port)
    try:
        headers = {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{path}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServerError(f"{path}: status {response.status}: {text[:400]}")
    return json.loads(text)


def _events(response: http.client.HTTPResponse) -> Iterator[Dict[str, Any]]:
    for raw in response:
        line = raw.strip()
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
        elif line.startswith(b"error:"):
            raise ServerError(line.decode("utf-8", "replace")[:400])


def stream(
    port: int,
    path: str,
    body: Dict[str, Any],
    on_piece: Optional[threading.Event] = None,
    piece_count: int = 1,
    cancel: Optional[threading.Event] = None,
) -> Reply:
    """Runs a streamed completion to its end, or until `cancel` is set: then the connection is closed.

    `on_piece` is set once `piece_count` pieces have come.
    """
    connection = _connect(port)
    reply = Reply(submitted_at=time.monotonic())
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            text = response.read().decode("utf-8", "replace")
            raise ServerError(f"{path}: status {response.status}: {text[:400]}")
        for event in _events(response):
            _take(reply, event)
            if on_piece is not None and len(reply.pieces_at) >= piece_count:
                on_piece.set()
            if cancel is not None and cancel.is_set():
                break
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerError(f"{path}: the stream broke: {error!r}") from error
    finally:
        connection.close()
        if on_piece is not None:
            on_piece.set()
    reply.ended_at = time.monotonic()
    if not reply.is_complete and not (cancel is not None and cancel.is_set()):
        raise ServerError(f"{path}: the stream ended without its usage")
    return reply


def _take(reply: Reply, event: Dict[str, Any]) -> None:
    if event.get("error"):
        raise ServerError(json.dumps(event["error"])[:400])
    for choice in event.get("choices") or []:
        delta = choice.get("delta") or {}
        # Reasoning is generated like any other text; its tokens count, but it is not fed back.
        thought = delta.get("reasoning_content")
        text = choice.get("text") or delta.get("content")
        logprobs = choice.get("logprobs") or {}
        if text or thought or logprobs:
            reply.pieces_at.append(time.monotonic())
        reply.text += text or ""
        reply.token_ids += [entry["id"] for entry in logprobs.get("content") or [] if "id" in entry]
        reply.token_texts += logprobs.get("tokens") or []
    usage = event.get("usage")
    if usage:
        reply.prompt_tokens = usage["prompt_tokens"]
        reply.completion_tokens = usage["completion_tokens"]
        reply.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        reply.is_complete = True
    reply.timings = event.get("timings") or reply.timings
