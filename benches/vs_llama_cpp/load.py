"""A closed loop of streaming chat requests against a server on 127.0.0.1: what its clients see.

Each client sends its next request when the last one is done. Prompts differ from their first token on, so that no cache of
prefixes helps; eos is ignored, so that every answer has the same length. Lines are stamped as they arrive and parsed
when all is over, to take little of the machine from the server. Bounded: clients, requests and seconds.
"""

import asyncio
import json
import math
import random
import time

import aiohttp

MAX_CLIENTS, MAX_REQUESTS = 64, 32  # a client
REQUEST_SECONDS, LEVEL_SECONDS = 600, 1800
WORDS = (
    "value number string table file index error result field model token block state queue thread buffer cache node "
    "list path name type size count key user data time line code test page word form unit part case plan rule step "
    "group level point order range event image color sound light water stone paper green black white small large"
).split()


def messages(draw):
    """About 210 tokens with a chat template of today, another text each time."""
    system = " ".join(draw.choices(WORDS, k=12)) + "."
    words = " ".join(draw.choices(WORDS, k=165))
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{words}. Write a long story about these words."},
    ]


async def stream(session, url, body):
    """Sends one request; (seconds, line) of all that comes back, from the moment it is sent."""
    begun = time.perf_counter()
    lines = []
    async with session.post(url, json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {(await response.text())[:300]}")
        async for line in response.content:
            if line.startswith(b"data:"):
                lines.append((time.perf_counter() - begun, line[5:].strip()))
    return lines


def understood(lines, max_tokens):
    """What a client saw of one answer; an answer that is not whole is an error."""
    if not lines or lines[-1][1] != b"[DONE]":
        raise RuntimeError("a stream ended without [DONE]")
    times, usage, reason = [], None, None
    for seconds, line in lines[:-1]:
        event = json.loads(line)
        if "error" in event:
            raise RuntimeError(f"the stream carried an error: {event['error']}")
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            reason = choice.get("finish_reason") or reason
            if choice["delta"].get("content"):
                times.append(seconds)
    if not times or reason != "length" or not usage or usage["completion_tokens"] != max_tokens:
        raise RuntimeError(f"{len(times)} pieces of text, finish {reason}, usage {usage}; {max_tokens} tokens were asked for")
    gaps = [after - before for before, after in zip(times, times[1:])]
    return {"ttft": times[0], "gaps": gaps, "prompt_tokens": usage["prompt_tokens"], "tokens": max_tokens}


async def level(port, clients, requests, max_tokens, seed):
    """`clients` at once, `requests` each; all answers, and the seconds from the first request to the last token."""
    if not (0 < clients <= MAX_CLIENTS and 0 < requests <= MAX_REQUESTS):
        raise ValueError(f"clients go from 1 to {MAX_CLIENTS}, requests from 1 to {MAX_REQUESTS}")
    url = f"http://127.0.0.1:{port}/v1"
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(limit=clients, force_close=True)  # no request on a connection that idled
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        async with session.get(f"{url}/models") as response:
            model = (await response.json())["data"][0]["id"]

        async def client(number):
            draw = random.Random(f"{seed} {clients} {number}")
            heard = []
            for _ in range(requests):
                body = {"model": model, "messages": messages(draw), "max_tokens": max_tokens, "temperature": 0}
                body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
                heard.append(await stream(session, f"{url}/chat/completions", body))
            return heard

        begun = time.perf_counter()
        heard = await asyncio.wait_for(asyncio.gather(*map(client, range(clients))), LEVEL_SECONDS)
        elapsed = time.perf_counter() - begun
    return [understood(lines, max_tokens) for each in heard for lines in each], elapsed


def percentile(values, share):
    """The smallest value that is not passed by `share` of all (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def run(port, clients, requests, max_tokens, seed):
    """One level as numbers: milliseconds, and tokens of output a second over all clients."""
    answers, elapsed = asyncio.run(level(port, clients, requests, max_tokens, seed))
    ttft = [answer["ttft"] * 1e3 for answer in answers]
    gaps = [gap * 1e3 for answer in answers for gap in answer["gaps"]]
    prompts = sorted(answer["prompt_tokens"] for answer in answers)
    return {
        "clients": clients,
        "requests": len(answers),
        "prompt_tokens": prompts[len(prompts) // 2],
        "ttft_p50_ms": round(percentile(ttft, 0.5), 2),
        "ttft_p95_ms": round(percentile(ttft, 0.95), 2),
        "inter_token_p50_ms": round(percentile(gaps, 0.5), 2),
        "inter_token_p95_ms": round(percentile(gaps, 0.95), 2),
        "tokens_per_second": round(sum(answer["tokens"] for answer in answers) / elapsed, 2),
        "seconds": round(elapsed, 2),
    }
