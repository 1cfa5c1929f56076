#!/usr/bin/env python3
"""How long a stream stands still when its worker is killed early in the reply to a long first prompt.

    benches/death-in-reply.py ALUCO WORKER MODEL [--words N] [--tokens N]

ALUCO and WORKER are binaries, as `make build` leaves them. Each run is made twice: with stored prompts on disk, and without a disk tier, where the
next worker has to compute all of the prompt again.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
import urllib.request

WORDS = "the owl flies over a dark forest and looks for mice while rain falls on old trees near rivers of silver water".split()


def prompt(words):
    chance = random.Random(5)
    return " ".join(chance.choice(WORDS) for _ in range(words)) + " Go on with this story."


def worker_pid(url):
    with urllib.request.urlopen(url + "/aluco/v1/status", timeout=60) as status:
        return json.load(status)["workers"][0]["hello"]["pid"]


def run(arguments, disk):
    """Seconds to the first token and of the longest pause after the kill, and the prompt's tokens."""
    body = {
        "model": arguments.model,
        "messages": [{"role": "user", "content": prompt(arguments.words)}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": arguments.tokens * 3,
        "ignore_eos": True,
        "temperature": 0,
    }
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "ALUCO_WORKER": arguments.worker, "ALUCO_LOG_LEVEL": "error"}
        command = [arguments.aluco, "serve", "--port", "0", "--context", str(arguments.words * 2), *disk]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            url = re.search(r"http://\S+", server.stderr.readline()).group(0)
            began = time.monotonic()
            request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())
            pieces, first, last, pause, prompt_tokens = 0, None, None, 0.0, None
            with urllib.request.urlopen(request, timeout=600) as stream:
                for line in stream:
                    if not line.startswith(b"data: {"):
                        continue
                    event = json.loads(line[len(b"data: ") :])
                    if event.get("usage"):
                        prompt_tokens = event["usage"]["prompt_tokens"]
                    if not event["choices"] or not event["choices"][0]["delta"].get("content"):
                        continue
                    now = time.monotonic()
                    pieces += 1
                    first = first or now - began
                    if pieces > arguments.tokens:
                        pause = max(pause, now - last)
                    last = now
                    if pieces == arguments.tokens:
                        os.kill(worker_pid(url), signal.SIGKILL)
            return first, pause, prompt_tokens
        finally:
            server.terminate()
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aluco", "worker", "model"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--words", type=int, default=4500, help="of the prompt")
    parser.add_argument("--tokens", type=int, default=60, help="of the reply before the kill")
    arguments = parser.parse_args()
    print("disk tier  prompt tokens  first token  pause after the kill")
    pauses = []
    for name, disk in (("yes", []), ("no", ["--cache-disk", "0"])):
        first, pause, tokens = run(arguments, disk)
        pauses.append(pause)
        print(f"{name:9}  {tokens:13}  {first:9.2f} s  {pause:18.2f} s", flush=True)
    print(f"{pauses[1] / pauses[0]:.1f} times as long without")


main()
