#!/usr/bin/env python3
"""Tokens per second with drafts and without, of replies that repeat their prompt and of others.

    benches/speculation.py ALUCO WORKER MODEL [--rounds N] [--tokens N]

ALUCO and WORKER are binaries, as `make build` leaves them. One server drafts and one does not; they are asked in turn, so that whatever
else the machine does slows both. Shown is the median of the rounds, and how many drafted tokens were right.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import urllib.request

CODE = "".join(
    f"def step_{n}(state):\n    state.count += {n}\n    state.names.append('step {n}')\n    return state\n\n" for n in range(12)
)
TASKS = {
    "repeat": f"Copy this code word for word:\n\n{CODE}",
    "edit": f"Write this code again with `state` renamed to `world`:\n\n{CODE}",
    "plain": "Tell a long story about an owl that learns to sail.",
}


def ask(url, model, task, tokens):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": TASKS[task]}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def serve(arguments, home, speculation):
    environment = {"HOME": home, "ALUCO_WORKER": arguments.worker, "ALUCO_LOG_LEVEL": "error"}
    command = [arguments.aluco, "serve", "--port", "0", "--speculation", speculation]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    return server, re.search(r"http://\S+", server.stderr.readline()).group(0)


def measure(arguments, urls):
    print("task       off tok/s   auto tok/s   ratio   right   same text")
    for task in TASKS:
        speeds = {name: [] for name in urls}
        texts = set()
        drafted = accepted = 0
        for _ in range(arguments.rounds):
            for name, url in urls.items():
                reply = ask(url, arguments.model, task, arguments.tokens)
                timings = reply["timings"]
                speeds[name].append(timings["predicted_per_second"])
                texts.add(reply["choices"][0]["message"]["content"])
                drafted += timings["draft_n"]
                accepted += timings["draft_n_accepted"]
        off, auto = (statistics.median(speeds[name]) for name in ("off", "auto"))
        right = f"{accepted / drafted:5.0%}" if drafted else "    -"
        same = "yes" if len(texts) == 1 else "no"
        print(f"{task:8} {off:11.1f} {auto:12.1f} {auto / off:7.2f}   {right}   {same}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aluco", "worker", "model"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        servers = {}
        try:
            for speculation in ("off", "auto"):
                servers[speculation] = serve(arguments, home, speculation)
            urls = {name: url for name, (_, url) in servers.items()}
            for url in urls.values():
                # The load is not part of what is measured.
                ask(url, arguments.model, "plain", 1)
            measure(arguments, urls)
        finally:
            for server, _ in servers.values():
                server.terminate()
                server.wait()


main()
