"""An `engram serve` with a memory of its own: started, filled, asked for its counts, stopped."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

START_S = 300
BATCH, WRITERS = 200, 4


class Server:
    """The process, from the moment its memory answers."""

    def __init__(self, args, settings):
        self.dir = args.dir / args.encoder
        self.dir.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.dir / "engram.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        config.write_text("\n".join(["[memory]", *lines]) + "\n")
        command = [args.engram, "serve", "--model", args.model, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--data-dir", str(self.dir), "--config", str(config), "--log-level", "warn"]
        with open(self.dir / "server.log", "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self):
        begun = time.monotonic()
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() - begun > START_S:
                self.__exit__()
                raise SystemExit(f"the server does not start:\n{(self.dir / 'server.log').read_text()[-3000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def ask(self, method, path, body=None):
        """Status and JSON (text where it is none) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    def ready(self):
        """Whether it searches: the encoder is loaded then, and the indexes are."""
        try:
            return self.ask("POST", "/v1/memory/search", {"query": "a search before all others", "k": 1})[0] == 200
        except OSError:
            return False

    def records(self):
        return self.ask("GET", "/v1/memory/stats")[1]["total"]

    def fill(self, chunks):
        """Remembers what is not there yet. Seconds, and records there at the end."""
        begun = time.monotonic()

        def write(start):
            records = [{"content": text, "kind": "code"} for text in chunks[start : start + BATCH]]
            status, answer = self.ask("POST", "/v1/memory/records", records)
            if status != 200:
                raise SystemExit(f"records were refused, status {status}: {str(answer)[:300]}")

        if self.records() < len(chunks):
            with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
                starts = range(0, len(chunks), BATCH)
                for done, _ in enumerate(pool.map(write, starts), 1):
                    print(f"\r{min(done * BATCH, len(chunks)):,} of {len(chunks):,} records", end="", flush=True)
            print()
        return time.monotonic() - begun, self.records()

    def caches(self):
        """Hits and misses of each cache so far."""
        text = self.ask("GET", "/metrics")[1]
        counts = re.findall(r'^cache_(hits|misses)_total\{cache="(\w+)"\} (\d+)', text, re.M)
        return {(cache, what): int(count) for what, cache, count in counts}

    def cpu_s(self):
        """Processor time it has used."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def most_resident_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024
