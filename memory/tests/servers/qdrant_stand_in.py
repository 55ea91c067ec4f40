"""Speaks the part of Qdrant's REST API that Engram uses, where no Qdrant can be had.

qdrant_stand_in.py PORT DIRECTORY KEY. Bodies are read by the models of Qdrant's own client, which are made from the
server's OpenAPI document and refuse unknown fields; what a filter, a conditional update or a search means is its
local mode's word. Beyond that it is stricter than the server: unknown paths and parameters are refused, and so is a
filter on a field without a payload index that fits, as with `unindexed_filtering_retrieve` off.
"""

import json
import pathlib
import re
import sys
import threading
import uuid
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from pydantic import TypeAdapter, ValidationError
from qdrant_client.http import models
from qdrant_client.local.qdrant_local import QdrantLocal

MAX_BODY = 32 << 20  # the server's default
WRITE = {"wait": ["true", "false"], "ordering": ["weak", "medium", "strong"]}
READ = {"consistency": ["majority", "quorum", "all"]}


class Refused(Exception):
    def __init__(self, status: int, message: str):
        self.status, self.message = status, message


def plain(value):
    """What the server would answer for a model, or a list of them."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


class Engine:
    """Collections on disk; one request at a time, as one shard applies its updates."""

    def __init__(self, directory: pathlib.Path):
        self.local = QdrantLocal(str(directory), force_disable_check_same_thread=True)
        self.file = directory / "indexes.json"
        self.indexes = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.lock = threading.Lock()
        one = r"/collections/([^/]+)"
        self.routes = [(method, re.compile(path), parameters, body, call) for method, path, parameters, body, call in [
            ("GET", "/", {}, None, None),
            ("GET", "/collections", {}, None, lambda: plain(self.local.get_collections())),
            ("GET", one, {}, None, self.collection),
            ("GET", one + "/exists", {}, None, lambda name: {"exists": self.local.collection_exists(name)}),
            ("PUT", one, {}, models.CreateCollection, self.create),
            ("PUT", one + "/index", WRITE, models.CreateFieldIndex, self.index),
            ("PUT", one + "/points", WRITE, models.PointsList, self.upsert),
            ("POST", one + "/points", READ, models.PointRequest, self.retrieve),
            ("POST", one + "/points/delete", WRITE, models.FilterSelector, self.delete),
            ("POST", one + "/points/scroll", READ, models.ScrollRequest, self.scroll),
            ("POST", one + "/points/count", READ, models.CountRequest, self.count),
            ("POST", one + "/points/query", READ, models.QueryRequest, self.query),
            ("POST", one + "/points/query/batch", READ, models.QueryRequestBatch, self.batch),
        ]]

    def answer(self, method: str, target: str, body: bytes) -> dict:
        url = urlsplit(target)
        if (method, url.path) == ("GET", "/"):
            return {"title": "a stand-in for qdrant", "version": "1.20.0"}
        for verb, path, parameters, model, call in self.routes:
            found = path.fullmatch(url.path)
            if verb != method or not found or call is None:
                continue
            given = parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
            for name, value in given:
                if value not in parameters.get(name, []):
                    raise Refused(400, f"Query deserialize error: {name}={value}")
            if model is None:
                if body:
                    raise Refused(400, "a body where none belongs")
                arguments = found.groups()
            else:
                arguments = (*found.groups(), TypeAdapter(model).validate_json(body))
            with self.lock:
                result = call(*arguments)
            if parameters is WRITE and dict(given).get("wait") != "true":
                result = {**result, "status": "acknowledged"}
            return {"result": result, "status": "ok", "time": 0.001}
        raise Refused(404, f"no {method} {url.path}")

    def collection(self, name: str) -> dict:
        info = plain(self.local.get_collection(name))
        kinds = {field: {"data_type": schema["type"], "params": schema, "points": 0}
                 for field, schema in self.indexes.get(name, {}).items()}
        return {**info, "payload_schema": kinds}

    def create(self, name: str, wanted: models.CreateCollection) -> bool:
        return self.local.create_collection(name, wanted.vectors, wanted.sparse_vectors)

    def index(self, name: str, wanted: models.CreateFieldIndex) -> dict:
        result = plain(self.local.create_payload_index(name, wanted.field_name, wanted.field_schema))
        self.indexes.setdefault(name, {})[wanted.field_name] = plain(wanted.field_schema)
        self.file.write_text(json.dumps(self.indexes))
        return result

    def upsert(self, name: str, wanted: models.PointsList) -> dict:
        self.indexed(name, wanted.update_filter)
        return plain(self.local.upsert(name, wanted.points, wanted.update_filter, wanted.update_mode))

    def retrieve(self, name: str, wanted: models.PointRequest) -> list:
        return plain(self.local.retrieve(name, wanted.ids, wanted.with_payload, wanted.with_vector))

    def delete(self, name: str, wanted: models.FilterSelector) -> dict:
        self.indexed(name, wanted.filter)
        return plain(self.local.delete(name, wanted))

    def scroll(self, name: str, wanted: models.ScrollRequest) -> dict:
        self.indexed(name, wanted.filter)
        offset = None if wanted.offset is None else str(uuid.UUID(str(wanted.offset)))
        points, following = self.local.scroll(name, wanted.filter, wanted.limit, wanted.order_by, offset,
                                              wanted.with_payload, wanted.with_vector)
        return {"points": plain(points), "next_page_offset": following}

    def count(self, name: str, wanted: models.CountRequest) -> dict:
        self.indexed(name, wanted.filter)
        return plain(self.local.count(name, wanted.filter, wanted.exact))

    def query(self, name: str, wanted: models.QueryRequest) -> dict:
        return self.batch(name, models.QueryRequestBatch(searches=[wanted]))[0]

    def batch(self, name: str, wanted: models.QueryRequestBatch) -> list:
        for search in wanted.searches:
            self.indexed(name, search.filter)
        return plain(self.local.query_batch_points(name, wanted.searches))

    def indexed(self, name: str, part) -> None:
        """Every condition on a field has an index that can answer it."""
        if isinstance(part, list):
            for one in part:
                self.indexed(name, one)
        elif isinstance(part, models.Filter):
            self.indexed(name, [part.must or [], part.should or [], part.must_not or []])
        elif isinstance(part, models.FieldCondition):
            schema = self.indexes.get(name, {}).get(part.key)
            kind = schema and schema["type"]
            if part.range is not None:
                fits = kind == "integer" and schema["range"]
            else:
                value = part.match.any[0] if isinstance(part.match, models.MatchAny) else part.match.value
                fits = kind == "keyword" if isinstance(value, str) else kind == "integer" and schema["lookup"]
            if not fits:
                raise Refused(400, f"Bad request: Index required but not found for \"{part.key}\": {part}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def serve(self):
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        try:
            if urlsplit(self.path).path != "/" and self.headers.get("api-key") != self.server.key:
                return self.send(401, b"Must provide an API key or an Authorization bearer token", "text/plain")
            if length > MAX_BODY:
                raise Refused(413, "JSON payload is too large")
            if length and self.headers.get("content-type") != "application/json":
                raise Refused(415, "content type is not application/json")
            status, answer = 200, self.server.engine.answer(self.command, self.path, body)
        except Refused as refused:
            status, answer = refused.status, {"status": {"error": refused.message}, "time": 0.0}
        except ValidationError as error:
            status, answer = 400, {"status": {"error": f"Format error in JSON body: {error}"}, "time": 0.0}
        except ValueError as error:
            missing = "not found" in str(error)
            status, answer = 404 if missing else 400, {"status": {"error": f"Wrong input: {error}"}, "time": 0.0}
        self.send(status, json.dumps(answer).encode(), "application/json")

    do_GET = do_PUT = do_POST = serve

    def send(self, status: int, body: bytes, kind: str):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port, directory, key = sys.argv[1:]
    warnings.simplefilter("ignore")
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads, server.key = True, key
    server.engine = Engine(pathlib.Path(directory))
    server.serve_forever()


if __name__ == "__main__":
    main()
