"""Replays workloads of agents against Aluco and llama-server, and counts what each of them computed.

    python3 benches/serving --model FILE.gguf --llama-server FILE

See benches/serving/README.md for the workloads and for how tokens are counted.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import equality
import gguf
import report
from client import ServerError
from servers import Aluco, LlamaServer, Server, Setting
from session import Session, uses_token_ids
from text import corpus_digest
from workloads import SCALES, WORKLOADS, Workload

_REPOSITORY = Path(__file__).resolve().parents[2]
_SEQUENCES = 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workloads", default=",".join(WORKLOADS), help="which, such as W1,W4 (default: all)")
    add("--servers", default="aluco,llama-server", help="which, such as aluco (default: both)")
    add("--model", type=os.path.abspath, required=True, help="GGUF file of W1 to W7")
    add("--second-model", type=os.path.abspath, help="the other GGUF file of W5 (default: the same under another name)")
    add("--w8-models", nargs="+", type=os.path.abspath, metavar="FILE", help="GGUF files of W8 (default: the model)")
    add("--scale", choices=sorted(SCALES), default="full", help="small is for seeing that all works")
    add("--out", type=Path, help="folder for results and logs (default: a new one under the temporary folder)")
    add("--aluco", help="binary (default: the release build)")
    add("--worker", help="worker binary (default: Aluco chooses)")
    add("--llama-server", default=shutil.which("llama-server"), help="binary (default: the one in PATH)")
    add("--threads", type=int, default=2)
    add("--seed", default="1")
    add("--aluco-flag", action="append", default=[], metavar="FLAG", help="one more for aluco serve, as --aluco-flag=--batch=512")
    add("--llama-flag", action="append", default=[], metavar="FLAG", help="one more for llama-server")
    add("--gate", action="store_true", help="exit with 1 when Aluco computes more prompt tokens than promised")
    add("--greedy-equality", action="store_true", help="compare Aluco's texts with the prefix store on and off, and nothing else")
    add("--near-tie", type=float, default=0.05, metavar="NATS", help="how far apart tokens may be where texts differ (default: 0.05)")
    return parser.parse_args()


def default_aluco() -> str:
    target = subprocess.run([_REPOSITORY / "scripts/target-dir.sh"], capture_output=True, text=True, check=True)
    return str(Path(target.stdout.strip()) / "release/aluco")


class Bench:
    """The choices of this run, and the one place where servers are made."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.out: Path = chosen.out or Path(tempfile.mkdtemp(prefix="aluco-serving-"))
        self.out.mkdir(parents=True, exist_ok=True)
        self.sizes = SCALES[chosen.scale]
        self.aluco = chosen.aluco or default_aluco()
        self._servers = 0
        self._running: Optional[Server] = None

    def models(self, name: str, workload: Workload, path: str) -> List[gguf.Facts]:
        paths = [path]
        if workload.models > 1:
            paths.append(self.chosen.second_model or self._under_another_name(path))
        context = workload.conversation(self.sizes)
        # A folder for each workload: the copy says how long its conversations get.
        return [gguf.stretched(gguf.read(path), context, str(self.out / "models" / name)) for path in paths]

    def _under_another_name(self, path: str) -> str:
        twin = self.out / "models" / f"second-{Path(path).name}"
        twin.parent.mkdir(exist_ok=True)
        if not twin.exists():
            try:
                os.link(path, twin)
            except OSError:
                shutil.copyfile(path, twin)
        return str(twin)

    def server(self, kind: str, label: str, models: List[gguf.Facts], context: int, flags: Optional[List[str]] = None) -> Server:
        self._servers += 1
        folder = self.out / f"{self._servers:02}-{label}-{kind}"
        setting = Setting(models, context, _SEQUENCES, self.chosen.threads)
        if kind == "aluco":
            return Aluco(self.aluco, self.chosen.worker, setting, folder, self.chosen.aluco_flag + (flags or []))
        return LlamaServer(self.chosen.llama_server, setting, folder, self.chosen.llama_flag)

    def replay(self, kind: str, name: str, path: str, flags: Optional[List[str]] = None) -> Session:
        """One workload on a fresh server that has nothing stored. The server is ended whatever happens."""
        workload = WORKLOADS[name]
        models = self.models(name, workload, path)
        server = self.server(kind, name, models, workload.context(self.sizes), flags)
        session = Session(server, self.chosen.seed)
        self._running = server
        try:
            server.start()
            workload.run(session, models, self.sizes)
            session.peak_memory_bytes = server.peak_memory_bytes()
            session.count()
            server.stop()
            session.stored_bytes = server.stored_bytes()
        finally:
            server.stop()
            server.forget()
        return session

    def abandon(self) -> None:
        """Ends the server at once, which also ends every request that a thread may wait for."""
        if self._running is not None:
            self._running.kill()


def run(bench: Bench) -> int:
    chosen = bench.chosen
    results: List[Dict[str, Any]] = []
    failures: List[str] = []
    for name in chosen.workloads.split(","):
        paths = (chosen.w8_models or [chosen.model]) if name == "W8" else [chosen.model]
        for path in paths:
            for kind in chosen.servers.split(","):
                label = f"{name} ({WORKLOADS[name].title}) on {kind}, {Path(path).name}"
                print(label, file=sys.stderr, flush=True)
                try:
                    session = bench.replay(kind, name, path)
                except ServerError as error:
                    failures.append(f"{label}: {error}")
                    print(f"  failed: {error}", file=sys.stderr, flush=True)
                    continue
                figures = report.summary(name, kind, gguf.read(path), session.requests)
                figures["prompts_are_token_ids"] = uses_token_ids(session.requests[0].model)
                figures["peak_memory_bytes"] = session.peak_memory_bytes
                figures["stored_bytes"] = session.stored_bytes
                figures["command"] = session.server.command()
                results.append(figures)
                write(bench, results, failures)
    print(report.tables(results))
    for failure in failures:
        print(f"failed: {failure}")
    print(f"\nresults: {bench.out / 'serving.json'}", file=sys.stderr)
    if not chosen.gate:
        return 1 if failures else 0
    broken = [problem for it in results if it["server"] == "aluco" for problem in report.broken_promises(it)]
    print("\n" + "\n".join(f"gate: {problem}" for problem in broken) if broken else "\ngate: all token counts are as promised")
    return 1 if broken or failures else 0


def write(bench: Bench, results: List[Dict[str, Any]], failures: List[str]) -> None:
    """After each workload, so that a run that is broken off leaves what it has."""
    chosen = bench.chosen
    whole = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "scale": chosen.scale,
        "seed": chosen.seed,
        "corpus": corpus_digest(),
        "threads": chosen.threads,
        "sequences": _SEQUENCES,
        "results": results,
        "failures": failures,
    }
    (bench.out / "serving.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def main() -> int:
    chosen = arguments()
    unknown = set(chosen.workloads.split(",")) - set(WORKLOADS)
    unknown |= set(chosen.servers.split(",")) - {"aluco", "llama-server"}
    if unknown:
        print(f"benches/serving: there is no {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    if "llama-server" in chosen.servers.split(",") and not chosen.llama_server and not chosen.greedy_equality:
        print("benches/serving: no llama-server in PATH; name it with --llama-server, or say --servers aluco", file=sys.stderr)
        return 2
    bench = Bench(chosen)

    def leave(number: int, _frame: Any) -> None:
        bench.abandon()
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        return equality.compare(bench) if chosen.greedy_equality else run(bench)
    except ServerError as error:
        print(f"benches/serving: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
