#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja2, set up as transformers' apply_chat_template sets it up, makes of chats.

    pip install jinja2
    python make_chat_golden.py templates/ chat_templates.json

The folder holds *.jinja files. A chat that a template refuses (raise_exception, or any error) has `error` for `text`.
"""

import datetime
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """{% generation %} marks what is trained on; the text is the same without it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda form: datetime.datetime.now(datetime.timezone.utc).strftime(form)

SYSTEM = {"role": "system", "content": "You are a careful programmer."}
USER = {"role": "user", "content": "  Write fib in Python.\n\n```py\ndef f(a): ...\n```  "}
ANSWER = {"role": "assistant", "content": "def fib(n):\n    return n if n < 2 else fib(n-1) + fib(n-2)"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call12345", "type": "function", "function": {"name": "read_file", "arguments": {"path": "src/é.rs", "lines": [1, 2], "all": True, "x": None}}}
    ],
}
RESULT = {"role": "tool", "content": "fn main() {}", "name": "read_file", "tool_call_id": "call12345"}
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a <file> & returns \"it\"",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string", "description": "where"}, "lines": {"type": "array", "items": {"type": "integer"}}},
            "required": ["path"],
        },
    },
}
THOUGHT = {"role": "assistant", "content": "<think>\nHm, recursion.\n</think>\n\nHere."}
CHATS = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, {"role": "user", "content": "Faster, please: 日本語 🦀"}]},
    "no_generation": {"messages": [SYSTEM, USER, ANSWER], "add_generation_prompt": False},
    "tools": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "called": {"messages": [USER, CALL, RESULT], "tools": [TOOL]},
    "called_on": {"messages": [SYSTEM, USER, CALL, RESULT, ANSWER, USER], "tools": [TOOL, TOOL]},
    "thought": {"messages": [USER, THOUGHT, {"role": "user", "content": "ok"}]},
    "not_thinking": {"messages": [USER], "kwargs": {"enable_thinking": False}},
    "twice": {"messages": [USER, USER]},
}


def render(text, chat):
    try:
        template = environment.from_string(text)
        rendered = template.render(
            messages=chat["messages"],
            tools=chat.get("tools"),
            documents=None,
            add_generation_prompt=chat.get("add_generation_prompt", True),
            bos_token="<s>",
            eos_token="</s>",
            **chat.get("kwargs", {}),
        )
        return {"text": rendered}
    except Exception as error:  # whatever the template does wrong
        return {"error": str(error)}


def main(folder, out_path):
    golden = {"reference": f"jinja2 {jinja2.__version__}", "chats": CHATS, "templates": []}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        renders = {name: render(text, chat) for name, chat in CHATS.items()}
        golden["templates"].append({"name": path.stem, "text": text, "renders": renders})
    with open(out_path, "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False, indent=1)
        out.write("\n")
    print(f"{out_path}: {len(golden['templates'])} templates, {len(CHATS)} chats each")


if __name__ == "__main__":
    main(*sys.argv[1:])
