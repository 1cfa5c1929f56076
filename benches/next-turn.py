#!/usr/bin/env python3
"""Time to the first token of each turn of a conversation, and how many prompt tokens had to be computed.

    benches/next-turn.py ALUCO WORKER MODEL [--turns N] [--cache-ram SIZE]

ALUCO and WORKER are binaries, as `make build` leaves them. `--cache-ram 0` shows what it is like without stored prompts.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import urllib.request

SYSTEM = "You are a careful assistant. " * 500
QUESTION = "What is gravity, and what is it not? " * 10


def ask(url, model, messages):
    body = {"model": model, "messages": messages, "max_tokens": 32, "temperature": 0}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aluco", "worker", "model"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--cache-ram", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "ALUCO_WORKER": arguments.worker, "ALUCO_LOG_LEVEL": "error"}
        command = [arguments.aluco, "serve", "--port", "0", "--cache-ram", arguments.cache_ram]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            url = re.search(r"http://\S+", server.stderr.readline()).group(0)
            # The load is not part of the first turn.
            ask(url, arguments.model, [{"role": "user", "content": "hi"}])
            messages = [{"role": "system", "content": SYSTEM}]
            submitted = computed = 0
            print("turn  prompt tokens  computed  first token")
            for turn in range(1, arguments.turns + 1):
                messages.append({"role": "user", "content": f"Question {turn}. {QUESTION}"})
                reply = ask(url, arguments.model, messages)
                prompt = reply["usage"]["prompt_tokens"]
                missed = prompt - reply["usage"]["prompt_tokens_details"]["cached_tokens"]
                submitted, computed = submitted + prompt, computed + missed
                print(f"{turn:4}  {prompt:13}  {missed:8}  {reply['timings']['ttft_ms']:8.0f} ms", flush=True)
                messages.append({"role": "assistant", "content": reply["choices"][0]["message"]["content"]})
            print(f" all  {submitted:13}  {computed:8}")
        finally:
            server.terminate()
            server.wait()


main()
