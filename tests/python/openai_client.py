"""The official `openai` client against a running Engram: python openai_client.py BASE_URL MODEL."""

import ast
import sys

import openai

base_url, model = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=base_url + "/v1", api_key="not-needed-on-loopback", max_retries=0, timeout=120)


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def models():
    ids = [m.id for m in client.models.list()]
    check(model in ids, f"{model} not in {ids}")
    check(client.models.retrieve(model).id == model, "retrieve")


def chat():
    answer = client.chat.completions.create(
        model=model, temperature=0, max_tokens=160,
        messages=[
            {"role": "system", "content": "You write Python. Answer with one code block and nothing else."},
            {"role": "user", "content": "Write a function is_even(n) that returns True when n is even."},
        ],
    )
    text = answer.choices[0].message.content
    check(answer.choices[0].finish_reason == "stop", f"finish reason {answer.choices[0].finish_reason}")
    check(answer.usage.completion_tokens > 5 and answer.usage.prompt_tokens > 20, f"usage {answer.usage}")
    code = text.split("```python")[-1].split("```")[0]
    scope = {}
    exec(compile(ast.parse(code), "answer", "exec"), scope)
    check(scope["is_even"](4) and not scope["is_even"](7), f"wrong code: {code}")
    return text


def streamed_chat(whole):
    stream = client.chat.completions.create(
        model=model, temperature=0, max_tokens=160, stream=True, stream_options={"include_usage": True},
        messages=[
            {"role": "system", "content": "You write Python. Answer with one code block and nothing else."},
            {"role": "user", "content": "Write a function is_even(n) that returns True when n is even."},
        ],
    )
    text, finish, usage, chunks = "", None, None, 0
    for chunk in stream:
        chunks += 1
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    check(text == whole, f"streamed differs from whole:\n{text}\n---\n{whole}")
    check(finish == "stop" and chunks > 5, f"finish {finish}, {chunks} chunks")
    check(usage and usage.prompt_tokens_details.cached_tokens > 0, f"the same prompt again, nothing cached: {usage}")


def completion():
    answer = client.completions.create(model=model, prompt="def fibonacci(n):\n", max_tokens=48, temperature=0, stop=["\n\n"])
    check("return" in answer.choices[0].text, f"completion: {answer.choices[0].text!r}")
    stream = client.completions.create(
        model=model, prompt="def fibonacci(n):\n", max_tokens=48, temperature=0, stop=["\n\n"], stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    check(text == answer.choices[0].text, "streamed completion differs")


def fill_in_the_middle():
    answer = client.completions.create(
        model=model, temperature=0, max_tokens=32,
        prompt="def area_of_circle(radius):\n    return ", suffix="\n\nprint(area_of_circle(2.0))\n",
    )
    text = answer.choices[0].text
    check("radius" in text and "<|" not in text, f"FIM: {text!r}")
    context = client.completions.create(
        model=model, temperature=0, max_tokens=32, prompt="from geometry import ", suffix="\n\nprint(area_of_circle(2.0))\n",
        extra_body={"fim_context": [{"path": "geometry.py", "text": "def area_of_circle(radius):\n    return 3.14 * radius ** 2\n"}]},
    )
    check("area_of_circle" in context.choices[0].text, f"FIM with context: {context.choices[0].text!r}")
    streamed = client.completions.create(
        model=model, temperature=0, max_tokens=32, stream=True,
        prompt="def area_of_circle(radius):\n    return ", suffix="\n\nprint(area_of_circle(2.0))\n",
    )
    check("".join(c.choices[0].text for c in streamed if c.choices) == text, "streamed FIM differs")


def options():
    messages = [{"role": "user", "content": "Name a colour."}]
    two = [
        client.chat.completions.create(model=model, messages=messages, seed=7, temperature=1.0, max_tokens=12).choices[0].message.content
        for _ in range(2)
    ]
    check(two[0] == two[1], f"the same seed gave {two}")
    several = client.chat.completions.create(model=model, messages=messages, n=3, temperature=1.0, max_tokens=8)
    check([c.index for c in several.choices] == [0, 1, 2], "n=3")
    scored = client.chat.completions.create(model=model, messages=messages, logprobs=True, top_logprobs=3, max_tokens=4, temperature=0)
    entries = scored.choices[0].logprobs.content
    check(all(len(e.top_logprobs) == 3 and e.logprob <= 0 and e.top_logprobs[0].token == e.token for e in entries), "logprobs")
    stopped = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count from 1 to 9, separated by commas."}], stop=["5"], temperature=0, max_tokens=40
    )
    check("5" not in stopped.choices[0].message.content, f"stop: {stopped.choices[0].message.content!r}")


def errors():
    def expect(kind, code, **request):
        try:
            client.chat.completions.create(**{"model": model, "messages": [{"role": "user", "content": "x"}], **request})
        except kind as error:
            check(error.code == code, f"{request}: code {error.code}, expected {code}")
        else:
            raise SystemExit(f"FAILED: {request} was accepted")

    expect(openai.NotFoundError, "model_not_found", model="no-such-model")
    expect(openai.BadRequestError, "unknown_parameter", extra_body={"temprature": 1})
    expect(openai.BadRequestError, "context_length_exceeded", messages=[{"role": "user", "content": "word " * 60000}])
    expect(openai.BadRequestError, "invalid_value", temperature=-1)


models()
whole = chat()
streamed_chat(whole)
completion()
fill_in_the_middle()
options()
errors()
print("openai client", openai.__version__, "ok")
