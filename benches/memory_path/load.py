"""Searches over many open connections: what their clients see, and what the generator itself costs.

HTTP/1.1 on asyncio's protocols, one request at a time a connection. An answer is looked at as bytes, for to parse ten
records of JSON would cost the server's machine more than some searches do. Closed: every client asks again as soon as it is
answered. Open: requests are due at random moments of a given rate (Poisson), whoever is idle takes the next one, and
time is counted from the moment a request was due, not from when it could be sent.
"""

import asyncio
import collections
import json
import random
import re
import time

HOST = "127.0.0.1"
TIMEOUT_S = 120
TIMINGS = re.compile(rb'"embed_ms":([0-9.e+-]+),"search_ms":([0-9.e+-]+)}}$')


class Answer(collections.namedtuple("Answer", "due sent done fault cached embed_ms search_ms")):
    """A request's moments, what was wrong with it (None: nothing), and what the server said of its own times."""


def request(port, path, body):
    """The bytes of a POST."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def read(due, sent, status, body):
    """The answer in `body`; one without hits is as wrong as one without a status of 200."""
    done = time.perf_counter()
    timings = TIMINGS.search(body, max(0, len(body) - 100))
    if status != 200:
        return Answer(due, sent, done, f"status {status}: {body[:200].decode(errors='replace')}", False, 0.0, 0.0)
    if timings is None or b'"hits":[{' not in body[:60]:
        return Answer(due, sent, done, f"no hits: {body[:200].decode(errors='replace')}", False, 0.0, 0.0)
    cached = b'"cached":true' in body[-120:]
    return Answer(due, sent, done, None, cached, float(timings[1]), float(timings[2]))


class Connection(asyncio.Protocol):
    """A client's connection; `ask` sends, and `answered` of the load is called with what came back."""

    def __init__(self, load):
        self.load, self.buffer, self.body_at, self.end = load, bytearray(), 0, None
        self.due = self.sent = None

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, due, data):
        self.due, self.sent = due, time.perf_counter()
        self.transport.write(data)

    def data_received(self, data):
        self.buffer += data
        if self.end is None:
            at = self.buffer.find(b"\r\n\r\n")
            if at < 0:
                return
            head = bytes(self.buffer[:at]).lower()
            self.status = int(head[9:12])
            self.body_at = at + 4
            self.end = self.body_at + int(re.search(rb"content-length: *(\d+)", head)[1])
        if len(self.buffer) >= self.end:
            answer = read(self.due, self.sent, self.status, bytes(self.buffer[self.body_at : self.end]))
            self.buffer, self.end, self.due = bytearray(), None, None
            self.load.answered(self, answer)

    def connection_lost(self, error):
        if self.due is not None:
            fault = f"connection lost: {error}"
            self.load.answered(None, Answer(self.due, self.sent, time.perf_counter(), fault, False, 0.0, 0.0))


class Load:
    """So many clients over so many connections, asking what `queries` gives (bytes, without end)."""

    def __init__(self, port, clients, queries):
        self.port, self.clients, self.queries = port, clients, queries
        self.answers, self.late_s, self.under_way, self.closing = [], [], 0, False

    async def connect(self):
        loop = asyncio.get_running_loop()
        self.connections = []
        for _ in range(self.clients):
            _, connection = await loop.create_connection(lambda: Connection(self), HOST, self.port)
            self.connections.append(connection)

    async def closed(self, seconds, total=None):
        """Each client without a pause: for so long, or until `total` are asked. Answers of the first fifth are a warm-up."""
        await self.connect()
        begun = time.perf_counter()
        warm, end = begun + seconds / 5, begun + seconds
        left = total

        def next_one(connection):
            nonlocal left
            if connection is None or time.perf_counter() >= end or left == 0:
                return
            left = None if left is None else left - 1
            self.send(connection, time.perf_counter())

        self.then = next_one
        for connection in self.connections:
            next_one(connection)
        await self.finished()
        if total is None:
            self.answers = [a for a in self.answers if a.fault or warm <= a.done <= end]
            return end - warm
        return time.perf_counter() - begun

    async def open(self, rate, seconds, seed=1):
        """Requests due at `rate` a second; all of them are waited for."""
        await self.connect()
        idle, waiting = collections.deque(self.connections), collections.deque()
        draw = random.Random(seed)

        def free(connection):
            if connection is None:
                return
            if waiting:
                self.send(connection, waiting.popleft())
            else:
                idle.append(connection)

        self.then = free
        begun = time.perf_counter()
        due = begun + draw.expovariate(rate)
        while due < begun + seconds:
            now = time.perf_counter()
            if due > now:
                await asyncio.sleep(due - now)
                continue
            if idle:
                self.late_s.append(now - due)
                self.send(idle.popleft(), due)
            else:
                waiting.append(due)
            due += draw.expovariate(rate)
        while waiting:
            await asyncio.sleep(0.01)
        await self.finished()
        return time.perf_counter() - begun

    def send(self, connection, due):
        self.under_way += 1
        connection.ask(due, next(self.queries))

    def answered(self, connection, answer):
        self.under_way -= 1
        self.answers.append(answer)
        self.then(connection)

    async def finished(self):
        begun = time.perf_counter()
        while self.under_way and time.perf_counter() - begun < TIMEOUT_S:
            await asyncio.sleep(0.01)
        lost = self.under_way
        for connection in self.connections:
            connection.due = None
            connection.transport.close()
        now = time.perf_counter()
        self.answers += [Answer(now, now, now, f"no answer in {TIMEOUT_S} s", False, 0.0, 0.0)] * lost
        await asyncio.sleep(0)


def percentiles(values):
    """P50, P95 and P99."""
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.95, 0.99)] if values else None
