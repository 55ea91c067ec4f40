"""The official `openai` client's embeddings against a running Engram: python embeddings_client.py BASE_URL ENCODER DIM SMALLEST."""

import base64
import concurrent.futures
import math
import struct
import sys

import openai

base_url, model, dim, smallest = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
client = openai.OpenAI(base_url=base_url + "/v1", api_key="not-needed-on-loopback", max_retries=0, timeout=120)
texts = ["open a file in python", "reading files with open()", "the cat sat on the mat", "日本語", "x " * 40]


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def refused(code, param, **request):
    try:
        client.embeddings.create(model=request.pop("model", model), **request)
    except openai.APIStatusError as error:
        check(error.body["code"] == code and error.body["param"] == param, f"{request}: {error.body}")
        return error
    raise SystemExit(f"FAILED: {request} was not refused")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def vectors_of(answer, count):
    check(answer.object == "list" and answer.model == model, f"{answer.object} {answer.model}")
    check([entry.index for entry in answer.data] == list(range(count)), "indices")
    check(all(entry.object == "embedding" and len(entry.embedding) == dim for entry in answer.data), "entries")
    check(answer.usage.prompt_tokens == answer.usage.total_tokens > 0, f"usage {answer.usage}")
    return [entry.embedding for entry in answer.data]


check(model in [m.id for m in client.models.list()], "the encoder is not listed")
check(client.models.retrieve(model).id == model, "retrieve")

# This client asks for base64 unless told otherwise, and decodes it.
together = vectors_of(client.embeddings.create(model=model, input=texts), len(texts))
floats = vectors_of(client.embeddings.create(model=model, input=texts, encoding_format="float"), len(texts))
pack = lambda vector: struct.pack(f"<{len(vector)}f", *vector)
check([pack(v) for v in together] == [pack(v) for v in floats], "base64 differs from float")
raw = client.with_raw_response.embeddings.create(model=model, input=texts[0], encoding_format="base64").http_response.json()
check(base64.b64decode(raw["data"][0]["embedding"]) == pack(floats[0]), "base64 is not the little-endian f32 of float")
for text, vector in zip(texts, floats):
    alone = vectors_of(client.embeddings.create(model=model, input=text, encoding_format="float"), 1)[0]
    check(max(abs(x - y) for x, y in zip(alone, vector)) <= 1e-6, f"batched differs from alone: {text}")
    check(abs(sum(x * x for x in vector) - 1) < 1e-5, "length 1")
check(cosine(floats[0], floats[1]) > cosine(floats[0], floats[2]) + 0.2, "nearness of meaning")

one = vectors_of(client.embeddings.create(model=model, input=[5, 6, 7], encoding_format="float"), 1)
two = vectors_of(client.embeddings.create(model=model, input=[[5, 6, 7], [8]], encoding_format="float"), 2)
check(one[0] == two[0] and one[0] != two[1], "token ids")
many = client.embeddings.create(model=model, input=["a"] * 2048, user="somebody")
check(len(many.data) == 2048, "2048 inputs")

if smallest < dim:
    cut = client.embeddings.create(model=model, input=texts[0], dimensions=smallest, encoding_format="float").data[0].embedding
    check(len(cut) == smallest and cosine(cut, floats[0][:smallest]) > 1 - 1e-6, "cut")
    check(abs(sum(x * x for x in cut) - 1) < 1e-5, "length 1 after the cut")
    refused("invalid_value", "dimensions", input="a", dimensions=smallest - 1)
else:
    refused("invalid_value", "dimensions", input="a", dimensions=dim - 1)
    long = " ".join(["word"] * 1000)
    refused("context_length_exceeded", "input", input=["a", long])
    answer = client.embeddings.create(model=model, input=long, extra_body={"truncate": True})
    check(answer.usage.prompt_tokens == 256, f"{answer.usage}")
check(len(client.embeddings.create(model=model, input="a", dimensions=dim).data[0].embedding) == dim, "whole length")

refused("invalid_value", "input", input="")
refused("invalid_value", "input", input=["a"] * 2049)
refused("invalid_value", "input", input=[10**9])
refused("model_not_found", "model", input="a", model="text-embedding-3-small")
refused("invalid_value", "model", input="a", model=sys.argv[5])
refused("unknown_parameter", "dimension", input="a", extra_body={"dimension": 3})
try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    raise SystemExit("FAILED: an encoder chats")
except openai.BadRequestError as error:
    check("/v1/embeddings" in error.body["message"], error.body)

words = ["read", "write", "sort", "merge", "parse", "retry", "open", "close"]
queries = [f"how to {a} and {b} number {i}" for i, (a, b) in enumerate((a, b) for a in words for b in words)]
expected = vectors_of(client.embeddings.create(model=model, input=queries, encoding_format="float"), len(queries))
ask = lambda query: client.embeddings.create(model=model, input=query, encoding_format="float").data[0].embedding
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    check(list(pool.map(ask, queries)) == expected, "many at once differ from one batch")
print("ok")
