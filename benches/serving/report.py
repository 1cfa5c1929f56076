"""Figures of a run: what is written as JSON, what is shown as tables, and which promises were kept."""

import math
import statistics
from typing import Any, Dict, Iterable, List, Optional

from session import Request

_BLOCK_TOKENS = 256
_SLACK = 1.02
_HOUSE_FULL, _HOUSE_OTHER = 1.05, 1.2


def percentile(values: Iterable[float], share: float) -> Optional[float]:
    """By the nearest rank, so that every figure was really seen."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _ms(seconds: Optional[float]) -> Optional[float]:
    return None if seconds is None else round(seconds * 1000, 2)


def _spread(values: Iterable[float]) -> Dict[str, Optional[float]]:
    known = list(values)
    return {"p50": _ms(percentile(known, 0.5)), "p95": _ms(percentile(known, 0.95))}


def _times(requests: List[Request]) -> Dict[str, Any]:
    replies = [request.reply for request in requests]
    return {
        "ttft_ms": _spread(reply.ttft_s for reply in replies if reply.ttft_s is not None),
        "tpot_ms": _spread(reply.tpot_s for reply in replies if reply.tpot_s is not None),
        "worst_gap_ms": _ms(max((gap for reply in replies for gap in reply.gaps_s), default=None)),
    }


def _disturbance(requests: List[Request]) -> Optional[Dict[str, Any]]:
    """What a long prompt did to the streams beside it: their gaps while it was being computed, and those between the same tokens when
    the same streams ran alone."""
    streams = [request.reply for request in requests if request.group == "stream"]
    alone = [request.reply for request in requests if request.group == "alone"]
    newcomers = [request.reply for request in requests if request.group == "newcomer"]
    if not newcomers or len(alone) != len(streams):
        return None
    newcomer = newcomers[0]
    first_at = newcomer.pieces_at[0] if newcomer.pieces_at else newcomer.ended_at
    before: List[float] = []
    during: List[float] = []
    first, last = None, 0
    for reply in streams:
        for at, (start, end) in enumerate(zip(reply.pieces_at, reply.pieces_at[1:])):
            if start < first_at and end > newcomer.submitted_at:
                during.append(end - start)
                first = at if first is None else min(first, at)
                last = max(last, at)
    for reply in alone:
        before += reply.gaps_s[first or 0 : last + 1]
    figures = {
        "undisturbed_tpot_ms": _spread(before),
        "disturbed_tpot_ms": _spread(during),
        "disturbed_worst_gap_ms": _ms(max(during, default=None)),
        "newcomer_ttft_ms": _ms(newcomer.ttft_s),
        # Streams that ended before the newcomer's first token were not disturbed to the end.
        "streams_outlasted_it": all(reply.ended_at >= first_at for reply in streams),
    }
    quiet, busy = percentile(before, 0.95), percentile(during, 0.95)
    figures["p95_ratio"] = round(busy / quiet, 2) if quiet and busy else None
    # Pieces that wait somewhere and then come all at once make most gaps tiny. Their mean is not fooled by that.
    is_known = bool(before and during)
    figures["mean_ratio"] = round(statistics.fmean(during) / statistics.fmean(before), 2) if is_known else None
    return figures


def summary(workload: str, server: str, model: Any, requests: List[Request]) -> Dict[str, Any]:
    """Everything about one workload on one server."""
    requests = sorted(requests, key=lambda request: request.reply.submitted_at)
    whole = [request for request in requests if not request.is_cancelled]
    computed = sum(request.computed_tokens for request in whole)
    ideal = sum(request.ideal_tokens for request in whole)
    groups = sorted({request.group for request in whole})
    return {
        "workload": workload,
        "server": server,
        "model": model.name,
        "architecture": model.architecture,
        "is_full_attention": model.is_full_attention,
        "requests": len(requests),
        "cancelled": len(requests) - len(whole),
        "prompt_tokens_submitted": sum(request.reply.prompt_tokens for request in whole),
        "prompt_tokens_computed": computed,
        "prompt_tokens_ideal": ideal,
        "computed_to_ideal": round(computed / ideal, 4) if ideal else None,
        # What the harness counts and what the server says must agree, or the ideal means nothing.
        "miscounted_requests": sum(map(_is_miscounted, whole)),
        "wall_s": round(max(it.reply.ended_at for it in requests) - requests[0].reply.submitted_at, 3),
        **_times(whole),
        "groups": {group: _times([it for it in whole if it.group == group]) for group in groups},
        "disturbance": _disturbance(requests),
        "each": [_each(request) for request in requests],
    }


def _is_miscounted(request: Request) -> bool:
    reply = request.reply
    is_reply_unread = bool(request.prompt.get("prompt")) and len(request.reply_tokens) != reply.completion_tokens
    return request.counted_prompt_tokens != reply.prompt_tokens or is_reply_unread


def _each(request: Request) -> Dict[str, Any]:
    return {
        "group": request.group,
        "model": request.model.name,
        "prompt_tokens": request.reply.prompt_tokens,
        "computed": request.computed_tokens,
        "ideal": request.ideal_tokens,
        "completion_tokens": request.reply.completion_tokens,
        "ttft_ms": _ms(request.reply.ttft_s),
        "tpot_ms": _ms(request.reply.tpot_s),
        "server_prompt_n": request.reply.timings.get("prompt_n"),
        "is_cancelled": request.is_cancelled,
    }


def broken_promises(figures: Dict[str, Any]) -> List[str]:
    """The token counts that are promised. They are deterministic; times are not, and are only shown."""
    workload, computed, ideal = figures["workload"], figures["prompt_tokens_computed"], figures["prompt_tokens_ideal"]
    label = f"{workload} on {figures['model']}"
    problems = []
    if figures["miscounted_requests"]:
        count = figures["miscounted_requests"]
        problems.append(f"{label}: {count} requests have another number of tokens than the server says")
    if workload == "W8":
        limit = _HOUSE_FULL if figures["is_full_attention"] else _HOUSE_OTHER
        if computed > limit * ideal:
            problems.append(f"{label}: computed {computed} tokens, {computed / ideal:.3f} of {ideal} new; at most {limit}")
    elif workload != "W7":
        allowed = _SLACK * ideal + _BLOCK_TOKENS * figures["requests"]
        if computed > allowed:
            problems.append(f"{label}: computed {computed} tokens; {ideal} were new, so at most {allowed:.0f}")
    return problems


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _times_over(ratio: Optional[float]) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _table(header: List[str], rows: List[List[Any]]) -> str:
    cells = [header] + [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]

    def line(row: List[str]) -> str:
        padded = [cell.ljust(width) if at < 2 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, cells))


def tables(results: List[Dict[str, Any]]) -> str:
    """Times in ms, wall in s."""
    has_one_model = len({it["model"] for it in results}) < 2

    def label(figures: Dict[str, Any]) -> str:
        return figures["workload"] if has_one_model else f"{figures['workload']} {figures['model']}"

    tokens = [
        [label(it), it["server"], it["requests"], it["prompt_tokens_submitted"], it["prompt_tokens_computed"],
         it["prompt_tokens_ideal"], f"{it['computed_to_ideal'] or 0:.3f}", it["miscounted_requests"] or "-"]
        for it in results
    ]  # fmt: skip
    times = [
        [label(it), it["server"], it["ttft_ms"]["p50"], it["ttft_ms"]["p95"], it["tpot_ms"]["p50"], it["tpot_ms"]["p95"],
         it["worst_gap_ms"], it["wall_s"], it["peak_memory_bytes"] >> 20, it["stored_bytes"] >> 20]
        for it in results
    ]  # fmt: skip
    groups = [
        [label(it), it["server"], group, its["ttft_ms"]["p50"], its["ttft_ms"]["p95"]]
        for it in results if len(it["groups"]) > 1 for group, its in it["groups"].items()
    ]  # fmt: skip
    parts = [
        _table(["", "server", "requests", "submitted", "computed", "ideal", "ratio", "miscounted"], tokens),
        _table(["", "server", "TTFT p50", "p95", "TPOT p50", "p95", "worst gap", "wall s", "RSS MiB", "disk MiB"], times),
    ]
    if groups:
        parts.append(_table(["", "server", "group", "TTFT p50", "p95"], groups))
    disturbed = [(it["server"], it["disturbance"]) for it in results if it["disturbance"]]
    if disturbed:
        rows = [
            ["W7", server, it["undisturbed_tpot_ms"]["p95"], it["disturbed_tpot_ms"]["p95"], _times_over(it["p95_ratio"]),
             _times_over(it["mean_ratio"]), it["disturbed_worst_gap_ms"], it["newcomer_ttft_ms"], "" if it["streams_outlasted_it"] else "streams ended first"]
            for server, it in disturbed
        ]  # fmt: skip
        parts.append(_table(["", "server", "p95 quiet", "p95 disturbed", "ratio", "mean ratio", "worst gap", "newcomer TTFT", ""], rows))
    comparison = _comparison(results)
    if comparison:
        parts.append(_table(["", "model", "computed", "wall", "first token", "goal"], comparison))
    return "\n\n".join(parts)


# The first token that a workload is about, where it is not every request's.
_TELLING = {"W4": "after restart", "W5": "after swap", "W7": "newcomer"}

# How many times llama-server's figure should be Aluco's. Times depend on the machine, so this is shown and never a gate.
_GOALS = {
    "W1": ("wall", 1.0),
    "W2": ("wall", 2.0),
    "W3": ("wall", 1.5),
    "W4": ("first token", 10.0),
    "W5": ("first token", 5.0),
    "W6": ("wall", 1.5),
}


def _comparison(results: List[Dict[str, Any]]) -> List[List[Any]]:
    """How many times Aluco's figure the other server's is, for workloads that both have run."""
    rows = []
    for ours in (it for it in results if it["server"] == "aluco"):
        for theirs in results:
            same = (theirs["workload"], theirs["model"]) == (ours["workload"], ours["model"])
            if theirs["server"] != "aluco" and same:
                rows.append(_compared(ours, theirs))
    return rows


def _compared(ours: Dict[str, Any], theirs: Dict[str, Any]) -> List[Any]:
    workload = ours["workload"]

    def first_token(figures: Dict[str, Any]) -> Optional[float]:
        group = figures["groups"].get(_TELLING.get(workload), figures)
        return group["ttft_ms"]["p50"]

    def ratio(mine: Optional[float], other: Optional[float]) -> Optional[float]:
        return other / mine if mine and other else None

    ratios = {
        "computed": ratio(ours["prompt_tokens_computed"], theirs["prompt_tokens_computed"]),
        "wall": ratio(ours["wall_s"], theirs["wall_s"]),
        "first token": ratio(first_token(ours), first_token(theirs)),
    }
    goal = ""
    if workload in _GOALS:
        what, least = _GOALS[workload]
        reached = ratios[what]
        goal = f"{what} {least:.1f}x: " + ("reached" if reached is not None and reached >= least else "not reached")
    return [workload, ours["model"], *map(_times_over, ratios.values()), goal]
