"""Starting, asking and ending the servers. Each driver hides how one server is told the same things."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import client
from gguf import Facts

_START_LIMIT_S = 300
_STOP_LIMIT_S = 30


class Setting(NamedTuple):
    """What both servers are given alike, in tokens and counts. `models_max` is how many models may be loaded at once."""

    models: List[Facts]
    context: int
    sequences: int
    threads: int
    models_max: int = 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _peak_memory_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Server:
    """A server process on a port of its own. `folder` holds its log and everything that it may keep over a restart."""

    name = ""

    def __init__(self, binary: str, setting: Setting, folder: Path, flags: List[str]) -> None:
        self.binary, self.setting, self.folder, self.flags = binary, setting, folder, flags
        self.log = folder / "server.log"
        self.port = 0
        self._process: Optional[subprocess.Popen] = None
        self._helpers: List[int] = []
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> List[str]:
        raise NotImplementedError

    def environment(self) -> Dict[str, str]:
        return dict(os.environ)

    def helpers(self) -> List[int]:
        """Process ids of what the server itself has started."""
        return []

    def prepare(self) -> None:
        """Has everything loaded that a first request would otherwise wait for."""

    def start(self) -> None:
        self.port = _free_port()
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        limit = time.monotonic() + _START_LIMIT_S
        while True:
            if self._process.poll() is not None or time.monotonic() > limit:
                raise client.ServerError(f"{self.name} did not start; see {self.log}")
            try:
                client.call(self.port, "/health")
                break
            except client.ServerError:
                time.sleep(0.05)
        self.prepare()
        # Known beforehand, so that a kill need not ask first.
        self._helpers = self.helpers()

    def kill(self) -> None:
        """SIGKILL to the server and to all that it started, at once: nobody gets to write anything more."""
        if self._process is None:
            return
        pids = [self._process.pid] + self._helpers
        for pid in pids:
            _end(pid)
        self._process.wait()
        while any(map(_is_alive, pids)):
            time.sleep(0.01)
        self._process = None

    def stop(self) -> None:
        """Ends the server in the orderly way, and by force what is left after that. Can be called at any time."""
        process = self._process
        if process is None:
            return
        pids = set(self._helpers)
        if process.poll() is None:
            try:
                pids.update(self.helpers())
            except client.ServerError:
                pass
            process.terminate()
            try:
                process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in filter(_is_alive, pids):
            _end(pid)
        self._process = None

    def peak_memory_bytes(self) -> int:
        """The most memory that the running processes ever had, pages of mapped weights among it."""
        pids = [self._process.pid] if self._process else []
        return sum(map(_peak_memory_bytes, pids + self.helpers()))

    def stored_bytes(self) -> int:
        """What the server has left on disk, its log aside."""
        files = (file for file in self.folder.rglob("*") if file.is_file() and not file.is_symlink())
        return sum(file.stat().st_size for file in files if file != self.log)

    def forget(self) -> None:
        """Deletes all that the server has left on disk but its log: stored prompts can be many gigabytes."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != self.log:
                entry.unlink()

    # What differs between the servers' APIs.

    def model_id(self, model: Facts) -> str:
        return model.path

    def extra(self) -> Dict[str, Any]:
        """Fields that every completion gets."""
        return {}

    def tokenize(self, model: Facts, text: str, is_prompt: bool) -> List[int]:
        """`is_prompt`: with the tokens that start a prompt, and control tokens recognised."""
        raise NotImplementedError

    def detokenize(self, model: Facts, tokens: List[int]) -> str:
        raise NotImplementedError

    def render(self, model: Facts, messages: List[Dict[str, str]]) -> str:
        """The text that the chat template makes of a conversation."""
        raise NotImplementedError


class Aluco(Server):
    name = "aluco"

    def __init__(self, binary: str, worker: Optional[str], setting: Setting, folder: Path, flags: List[str]) -> None:
        super().__init__(binary, setting, folder, flags)
        self._worker = worker

    def command(self) -> List[str]:
        setting = self.setting
        return [
            self.binary, "serve", "--host", "127.0.0.1", "--port", str(self.port),
            "--context", str(setting.context), "--parallel", str(setting.sequences),
            "--threads", str(setting.threads), "--models-max", str(setting.models_max),
            "--keep-alive", "forever", "--backend", "cpu", *self.flags,
        ]  # fmt: skip

    def environment(self) -> Dict[str, str]:
        # A home of its own: no configuration, no stored prompts of another run.
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        worker = {"ALUCO_WORKER": self._worker} if self._worker else {}
        return {**kept, **worker, "HOME": str(home)}

    def helpers(self) -> List[int]:
        status = client.call(self.port, "/aluco/v1/status")
        return [worker["hello"]["pid"] for worker in status["workers"] if worker.get("hello")]

    def prepare(self) -> None:
        client.call(self.port, "/aluco/v1/models/load", {"model": self.model_id(self.setting.models[0])})

    def tokenize(self, model: Facts, text: str, is_prompt: bool) -> List[int]:
        body = {"model": self.model_id(model), "text": text, "add_special": is_prompt, "parse_special": is_prompt}
        return client.call(self.port, "/aluco/v1/tokenize", body)["tokens"]

    def detokenize(self, model: Facts, tokens: List[int]) -> str:
        return client.call(self.port, "/aluco/v1/detokenize", {"model": self.model_id(model), "tokens": tokens})["text"]

    def render(self, model: Facts, messages: List[Dict[str, str]]) -> str:
        return client.call(self.port, "/aluco/v1/render", {"model": self.model_id(model), "messages": messages})["prompt"]


class LlamaServer(Server):
    """llama.cpp's server, with a unified cache and its prompt cache in RAM at the default size; several models by its router."""

    name = "llama-server"

    def command(self) -> List[str]:
        setting = self.setting
        if len(setting.models) == 1:
            models = ["-m", setting.models[0].path]
        else:
            models = ["--models-dir", str(self._models_folder()), "--models-max", str(setting.models_max)]
        return [
            self.binary, *models, "--host", "127.0.0.1", "--port", str(self.port), "-c", str(setting.context),
            "-np", str(setting.sequences), "-kvu", "-t", str(setting.threads), "--no-webui", *self.flags,
        ]  # fmt: skip

    def _models_folder(self) -> Path:
        folder = self.folder / "models"
        folder.mkdir(exist_ok=True)
        for model in self.setting.models:
            link = folder / f"{model.name}.gguf"
            if not link.exists():
                link.symlink_to(model.path)
        return folder

    def environment(self) -> Dict[str, str]:
        # No model cache of the user's beside the models of this run.
        return {**os.environ, "LLAMA_CACHE": str(self.folder / "cache")}

    def helpers(self) -> List[int]:
        # The router's children: processes of the session that this harness made for it.
        pids = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and self._process and os.getsid(int(entry)) == self._process.pid:
                    pids.append(int(entry))
            except OSError:
                pass
        return [pid for pid in pids if pid != self._process.pid] if self._process else []

    def prepare(self) -> None:
        if len(self.setting.models) > 1:
            # The router answers before it has a model; the first request to a model loads it.
            self.tokenize(self.setting.models[0], "ready?", False)

    def model_id(self, model: Facts) -> str:
        return model.name

    def extra(self) -> Dict[str, Any]:
        return {"cache_prompt": True}

    def tokenize(self, model: Facts, text: str, is_prompt: bool) -> List[int]:
        body = {"model": self.model_id(model), "content": text, "add_special": is_prompt, "parse_special": is_prompt}
        return client.call(self.port, "/tokenize", body)["tokens"]

    def detokenize(self, model: Facts, tokens: List[int]) -> str:
        return client.call(self.port, "/detokenize", {"model": self.model_id(model), "tokens": tokens})["content"]

    def render(self, model: Facts, messages: List[Dict[str, str]]) -> str:
        return client.call(self.port, "/apply-template", {"model": self.model_id(model), "messages": messages})["prompt"]
