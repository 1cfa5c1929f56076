#!/usr/bin/env python3
"""How long loading a model takes by mmap, by plain reads and by direct I/O, with the file out of memory and in it.

    benches/load-time.py ALUCO WORKER MODEL [--rounds N] [--layers N]

ALUCO and WORKER are binaries, as `make build` leaves them. `--layers 330` makes a larger model of MODEL first, by repeating its layers:
what that one says has no meaning, but it loads as any other of its size. Ways take turns, so that a drift of the machine meets all of
them alike. `first reply` is the load and one token, since what is mapped is read when it is used first. No root is needed: the
kernel is asked to forget the pages of the file (posix_fadvise), and `from disk` shows that it did.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
import urllib.request

WAYS = ("mmap", "read", "direct")
ALIGNMENT = 32
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, LIST = 8, 9


class Header:
    """The header of a GGUF file, as far as it takes to repeat its layers."""

    def __init__(self, data):
        self.data, self.at = data, 8
        self.tensor_count, self.key_count = self.take("QQ")
        self.layers, self.layers_at = None, None
        self.keys_at = self.at
        for _ in range(self.key_count):
            key, (kind,) = self.text(), self.take("I")
            if key.endswith(".block_count"):
                self.layers_at = self.at
                self.layers = struct.unpack_from("<I", data, self.at)[0]
            self.skip(kind)
        self.keys_end = self.at
        self.tensors = []
        for _ in range(self.tensor_count):
            name, (dimensions,) = self.text(), self.take("I")
            shape, (kind, offset) = self.take(f"{dimensions}Q"), self.take("IQ")
            self.tensors.append((name, shape, kind, offset))
        self.data_at = -(-self.at // ALIGNMENT) * ALIGNMENT

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def text(self):
        (length,) = self.take("Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode()

    def skip(self, kind):
        if kind == TEXT:
            self.text()
        elif kind == LIST:
            of, count = self.take("IQ")
            for _ in range(count):
                self.skip(of)
        else:
            self.at += SCALARS[kind]


def enlarge(source, target, layers):
    """Writes a model with so many layers, which are those of another one by turns."""
    with open(source, "rb") as file:
        data = file.read()
    header = Header(data)
    sizes = {}
    ends = sorted([offset for *_, offset in header.tensors] + [len(data) - header.data_at])
    for name, *_, offset in header.tensors:
        sizes[name] = ends[ends.index(offset) + 1] - offset
    wanted = []
    for name, shape, kind, offset in header.tensors:
        layer = re.match(r"blk\.(\d+)\.(.*)", name)
        if layer is None:
            wanted.append((name, name, shape, kind, offset))
            continue
        for number in range(int(layer[1]), layers, header.layers):
            wanted.append((f"blk.{number}.{layer[2]}", name, shape, kind, offset))
    keys = bytearray(data[header.keys_at : header.keys_end])
    struct.pack_into("<I", keys, header.layers_at - header.keys_at, layers)
    infos, at = bytearray(), 0
    for name, original, shape, kind, _ in wanted:
        infos += struct.pack("<Q", len(name)) + name.encode()
        infos += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        at += sizes[original]
    with open(target, "wb") as file:
        file.write(data[:8] + struct.pack("<QQ", len(wanted), header.key_count) + keys + infos)
        file.write(bytes(-file.tell() % ALIGNMENT))
        for _, original, _, _, offset in wanted:
            begin = header.data_at + offset
            file.write(data[begin : begin + sizes[original]])


def forget(path):
    """Has the kernel drop the pages of a file from memory."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def remember(path):
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def bytes_read(url):
    """Bytes that the worker has had read from the disk so far."""
    with urllib.request.urlopen(url + "/aluco/v1/status") as reply:
        pid = json.load(reply)["workers"][0]["hello"]["pid"]
    with open(f"/proc/{pid}/io") as file:
        return int(re.search(r"^read_bytes: (\d+)", file.read(), re.MULTILINE)[1])


class Server:
    """`aluco serve` with one way to load."""

    def __init__(self, arguments, way):
        self.home = tempfile.mkdtemp()
        environment = {"HOME": self.home, "ALUCO_WORKER": arguments.worker, "ALUCO_LOG_LEVEL": "error"}
        command = [arguments.aluco, "serve", "--port", "0", "--weight-loading", way, "--context", "512"]
        command += ["--cache-ram", "0", "--cache-device", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.url = re.search(r"http://\S+", self.process.stderr.readline()).group(0)

    def load(self, model):
        """Seconds of the load, seconds to the first token, and megabytes read meanwhile."""
        before = bytes_read(self.url)
        began = time.monotonic()
        loaded = post(self.url, "/aluco/v1/load", {"model": model})
        reply = {"model": model, "prompt": "a", "max_tokens": 1, "keep_alive": "forever"}
        post(self.url, "/v1/completions", reply)
        first = time.monotonic() - began
        read = bytes_read(self.url) - before
        post(self.url, "/aluco/v1/models/unload", {"model": model})
        return loaded["load_ms"] / 1e3, first, read / 1e6

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.home)


def measure(arguments, model):
    with tempfile.TemporaryDirectory() as folder:
        # A worker runs before the clock does.
        other = os.path.join(folder, "other.gguf")
        shutil.copy(arguments.model, other)
        servers = {way: Server(arguments, way) for way in WAYS}
        try:
            for server in servers.values():
                post(server.url, "/aluco/v1/load", {"model": other})
                post(server.url, "/aluco/v1/models/unload", {"model": other})
            results = {(way, is_cold): [] for is_cold in (True, False) for way in WAYS}
            for _ in range(arguments.rounds):
                for (way, is_cold), figures in results.items():
                    (forget if is_cold else remember)(model)
                    figures.append(servers[way].load(model))
        finally:
            for server in servers.values():
                server.stop()
    return results


def report(results):
    print("file in memory  way        load   ratio  first reply   ratio  from disk")
    for is_cold in (True, False):
        base = None
        for way in WAYS:
            load, first, read = (statistics.median(column) for column in zip(*results[way, is_cold]))
            base = base or (load, first)
            print(
                f"{'no' if is_cold else 'yes':14}  {way:6}  {load:7.2f} s  {load / base[0]:5.2f}  {first:9.2f} s"
                f"  {first / base[1]:5.2f}  {read:6.0f} MB"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("aluco", "worker", "model"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int)
    arguments = parser.parse_args()
    if arguments.layers is None:
        results = measure(arguments, arguments.model)
    else:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(arguments.model)) as folder:
            model = os.path.join(folder, "large.gguf")
            enlarge(arguments.model, model, arguments.layers)
            print(f"{arguments.layers} layers, {os.path.getsize(model) / 1e6:.0f} MB")
            results = measure(arguments, model)
    report(results)


main()
