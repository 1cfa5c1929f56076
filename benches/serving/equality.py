"""Whether the prefix store changes what a model says: the same workloads with it and without it, greedily."""

import json
import subprocess
import sys
from typing import Any, Dict, List, Optional, Tuple

import client
from servers import Server
from session import Request
from workloads import WORKLOADS

_WORKLOADS = ("W1", "W2", "W3", "W6")


def _without_store(aluco: str) -> List[str]:
    """The flags that turn off every tier that this build has."""
    known = subprocess.run([aluco, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    return [part for flag in ("--cache-ram", "--cache-disk", "--cache-device") if flag + " " in known for part in (flag, "0")]


def _said(request: Request) -> str:
    return request.reply.text or "".join(request.reply.token_texts)


def _alternatives(server: Server, request: Request) -> List[Tuple[str, Dict[str, float]]]:
    """The reply computed once more: each token's text, and the log probabilities of the likeliest tokens in its place."""
    body = {
        **request.prompt,
        **server.extra(),
        "model": server.model_id(request.model),
        "max_tokens": request.reply.completion_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if "messages" in request.prompt:
        choice = client.call(server.port, request.path, {**body, "logprobs": True, "top_logprobs": 5})["choices"][0]
        return [(at["token"], {it["token"]: it["logprob"] for it in at["top_logprobs"]}) for at in choice["logprobs"]["content"]]
    logprobs = client.call(server.port, request.path, {**body, "logprobs": 5})["choices"][0]["logprobs"]
    return list(zip(logprobs["tokens"], logprobs["top_logprobs"]))


def _gap(alternatives: List[Tuple[str, Dict[str, float]]], other: str) -> Optional[float]:
    """How much likelier, in nats, the token is that was chosen where `other` goes on in another way. None: far likelier."""
    for token, likeliest in alternatives:
        if other.startswith(token):
            other = other[len(token) :]
            continue
        others = [likelihood for text, likelihood in likeliest.items() if text != token and text and other.startswith(text)]
        return likeliest[token] - max(others) if others and token in likeliest else None
    return 0.0


def compare(bench: Any) -> int:
    """0 when all texts are equal but for near ties. A text that differs is in every later prompt of its conversation: those requests
    cannot be compared any more."""
    chosen = set(bench.chosen.workloads.split(","))
    results = []
    for name in (name for name in _WORKLOADS if name in chosen):
        replies: List[Dict[str, Request]] = []
        for label, flags in (("with", []), ("without", _without_store(bench.aluco))):
            print(f"{name} {label} the prefix store", file=sys.stderr, flush=True)
            session = bench.replay("aluco", name, bench.chosen.model, flags)
            # Requests that run at once end in any order; their prompts name them.
            replies.append({json.dumps(it.prompt): it for it in session.requests})
        stored, cold = replies
        both = [prompt for prompt in cold if prompt in stored]
        different = [prompt for prompt in both if _said(stored[prompt]) != _said(cold[prompt])]
        gaps = _gaps(bench, name, [(cold[prompt], _said(stored[prompt])) for prompt in different])
        result = {
            "workload": name,
            "requests": len(cold),
            "equal": len(both) - len(different),
            "gaps_nats": gaps,
            "not_comparable": len(cold) - len(both),
        }
        results.append(result)
        print(f"{name}: {result['equal']} of {len(cold)} texts are equal", flush=True)
        for gap in gaps:
            print("  one differs: " + ("not by a near tie" if gap is None else f"the two tokens are {gap:.4f} nats apart"))
        if result["not_comparable"]:
            print(f"  {result['not_comparable']} follow such a text and have another prompt")
    (bench.out / "equality.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    wrong = [gap for result in results for gap in result["gaps_nats"] if gap is None or gap > bench.chosen.near_tie]
    return 1 if wrong else 0


def _gaps(bench: Any, name: str, different: List[Tuple[Request, str]]) -> List[Optional[float]]:
    """For each cold request the gap to the other text, on a server without stored prompts."""
    if not different:
        return []
    workload = WORKLOADS[name]
    models = bench.models(name, workload, bench.chosen.model)
    server = bench.server("aluco", f"{name}-gaps", models, workload.context(bench.sizes), _without_store(bench.aluco))
    try:
        server.start()
        return [_gap(_alternatives(server, request), other) for request, other in different]
    finally:
        server.stop()
        server.forget()
