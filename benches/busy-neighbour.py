#!/usr/bin/env python3
"""Speed of `aluco serve` while other programs keep cores busy: threads that adapt (the default) against fixed numbers of them.

    benches/busy-neighbour.py ALUCO WORKER MODEL [--rounds N] [--busy 0,1,2] [--threads 1,2]

ALUCO and WORKER are binaries, as `make build` leaves them. One server per setting; they take turns in each round, one request of
100 tokens at a time, while so many busy loops run. Printed are medians and ranges of what the worker itself reports.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request

QUESTION = "Tell me a long story about the sea. " * 12
TOKENS = 100


@contextlib.contextmanager
def process(*command, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


@contextlib.contextmanager
def server(arguments, flags, home):
    environment = {"HOME": home, "ALUCO_WORKER": arguments.worker, "ALUCO_LOG_LEVEL": "error"}
    command = [arguments.aluco, "serve", "--port", "0", *flags]
    with process(*command, stderr=subprocess.PIPE, text=True, env=environment) as child:
        yield re.search(r"http://\S+", child.stderr.readline()).group(0)


def ask(url, model):
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        timings = json.load(reply)["timings"]
    return timings["prompt_per_second"], timings["predicted_per_second"]


def measure(arguments, urls):
    samples = {name: [] for name in urls}
    for _ in range(arguments.rounds):
        for name, url in urls.items():
            samples[name].append(ask(url, arguments.model))
    return samples


def main():
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aluco", "worker", "model"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--busy", type=numbers, default=[0, 1, 2])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    arguments = parser.parse_args()
    settings = {"adaptive": []} | {f"{n} fixed": ["--threads", str(n)] for n in arguments.threads}
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {name: stack.enter_context(server(arguments, flags, home)) for name, flags in settings.items()}
        for url in urls.values():
            ask(url, arguments.model)
        print(f"{'busy':>4}  {'threads':8}  {'prefill tok/s':>24}  {'decode tok/s':>24}")
        for busy in arguments.busy:
            with contextlib.ExitStack() as loops:
                for _ in range(busy):
                    loops.enter_context(process(sys.executable, "-c", "while True: pass"))
                samples = measure(arguments, urls)
            for name, values in samples.items():
                cells = [f"{statistics.median(v):8.1f} [{min(v):6.1f}-{max(v):6.1f}]" for v in zip(*values)]
                print(f"{busy:4}  {name:8}  {cells[0]:>24}  {cells[1]:>24}", flush=True)


main()
