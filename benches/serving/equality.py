"""Whether the prefix store changes what a model says: the same workloads with it and without it, greedily."""

import json
import subprocess
import sys
from typing import Any, List

_WORKLOADS = ("W1", "W2", "W3", "W6")


def _without_store(aluco: str) -> List[str]:
    """The flags that turn off every tier that this build has."""
    known = subprocess.run([aluco, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    return [part for flag in ("--cache-ram", "--cache-disk", "--cache-device") if flag + " " in known for part in (flag, "0")]


def compare(bench: Any) -> int:
    """0 when all texts are equal. One that differs changes every later prompt of its conversation, so the first one counts."""
    chosen = set(bench.chosen.workloads.split(","))
    results = []
    for name in (name for name in _WORKLOADS if name in chosen):
        texts = []
        for label, flags in (("with", []), ("without", _without_store(bench.aluco))):
            print(f"{name} {label} the prefix store", file=sys.stderr, flush=True)
            session = bench.replay("aluco", name, bench.chosen.model, flags)
            # Requests that run at once end in any order; their prompts name them.
            texts.append({json.dumps(it.prompt): it.reply.text or it.reply_tokens for it in session.requests})
        stored, cold = texts
        different = [prompt for prompt in cold if stored.get(prompt) != cold[prompt]]
        results.append({"workload": name, "requests": len(cold), "different": len(different)})
        print(f"{name}: {len(cold) - len(different)} of {len(cold)} texts are equal", flush=True)
        for prompt in different[:1]:
            print(f"  the first that differs: {stored.get(prompt)!r} with, {cold[prompt]!r} without")
    (bench.out / "equality.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 1 if any(result["different"] for result in results) else 0
