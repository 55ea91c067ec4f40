#!/usr/bin/env python3
"""Writes tokenizer_<model>.json: texts and the ids llama.cpp gives them, for the tokenizer tests.

    pip install llama-cpp-python
    python make_tokenizer_golden.py MODEL.gguf tokenizer_MODEL.json

`parsed` has special tokens in the text parsed, `as_text` has them as text. Three of llama.cpp's habits are not taken over:
- It does not compose characters (NFC) for Qwen, whose own tokenizer does: texts are composed here first.
- It takes any token named `</s>` for an end of text, in Qwen's vocabulary a plain one: such texts have no `parsed`.
- With special tokens off it still parses those of type "user defined" (`<tool_call>`): such texts have no `as_text`.
"""

import json
import sys
import unicodedata

import llama_cpp

CODE = [
    "def fib(n: int) -> int:\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "fn main() {\n    let xs: Vec<u32> = (0..10).map(|x| x * x).collect();\n    println!(\"{xs:?}\");\n}\n",
    "#include <stdio.h>\r\nint main(void) {\r\n\treturn printf(\"%d\\n\", 0xDEADBEEF);\r\n}\r\n",
    "SELECT a.id, COUNT(*) AS n FROM t1 a LEFT JOIN t2 b ON a.id=b.a_id WHERE b.x IS NOT NULL GROUP BY 1;",
    "const f = async (x) => { await g(`${x}/…`); };\n// ünïcödé — “quotes”\n",
    "class A<T extends B & C> implements D {\n\n\n    private static final int X = 1_000_000;\n}\n",
    "<html>\n\t<body class=\"a b\">&nbsp;<!-- c --></body>\n</html>",
    "{\"a\": [1, 2.5e-10, null, true], \"b\": {\"c\": \"\\u00e9\"}}",
    "#!/usr/bin/env bash\nset -euo pipefail\nfor f in *.rs; do wc -l \"$f\" | awk '{print $1}'; done\n",
    "x = lambda *a, **k: (yield)  # type: ignore[misc]\n\n\n\n@dec\nclass C: ...\n",
    "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n \\ No newline at end of file\n",
    "    return 0;\n}\n\n\n\n\nstatic inline void __attribute__((always_inline)) f(void)\n{\n",
]
WORDS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \t ", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \n \n ",
    "a", " a", "a ", "  a", "a  b", "a   b", "a\tb", "a\t\tb", "a\n\nb", "a \n b", "Hello, World!", "HELLO", "hElLo",
    "I'm you're he'll they've I'd it's DON'T CAN'T I'M", "'s 't 're 've 'm 'll 'd 'S 'T", "''' \"\"\" ```", "foo's", "'ſ",
    "camelCaseWord snake_case_word kebab-case-word SCREAMING_SNAKE", "__init__", "i++ --j += -= *= /= ==> <=> !== ??= ?.",
    "0", "00", "123", "1234", "12345", "123456789012345", "3.14159", "1,000,000", "0x1F", "1e-10", "v1.2.3-rc4", "²³½ Ⅷ ٣ १२३",
    "http://example.com/a?b=c&d=%20#e", "user@example.com", "C:\\Users\\x\\y.txt", "/usr/local/bin/../lib", "$HOME ${X:-y}",
    "!!!???...,,,;;;", "((([[[{{{}}}])))", "->=>::<-<=", "// /* */ # -- ;;", "\\n\\t\\\\", "\x00", "\x01\x7f", "\u0085\u00a0x", "\ufeffbom",
    "中文", "我想在apple工作1314151天～", "日本語のテキスト、カタカナ", "한국어 텍스트", "漢字かな交じり文。", "你好，世界！", "繁體中文 简体中文",
    "Привет, мир!", "нещо на Български", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "កាន់តែពិសេសអាចខលចេញ",
    "Ünïcödé façade naïve Ångström", "ﬁ ﬂ ﬀ", "İstanbul ıi", "ß ẞ", "Ǆ ǅ ǆ", "ᾼ ῼ",
    "🦀", "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇫🇷", "a🙂b🙃c", "☺️❤️", "🧑🏿‍🚀 code 🧵",
    "e\u0301 a\u0300 o\u0308", "Z\u0351\u036b\u0343a\u0363\u0368l\u034eg\u0321o", "\u1112\u1161\u11ab", "が が", "क\u093c", "\u0301", "x\u20d7",
    "\u200b\u200d\u200e", "\u2028\u2029", "\u3000全角　空白", "\u2003em\u2009thin", "𝕳𝖊𝖑𝖑𝖔", "𠜎𠜱", "\U0001f9ff\U0010ffff", "\ufffd", "\ue000",
    "∑∫√∞≠≤≥±×÷", "←↑→↓⇒", "─│┌┐└┘█▓▒░", "€£¥₹", "“”‘’«»„‚", "…—–‐", "©®™°", "1️⃣2️⃣",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b", " <|im_end|> ", "<|im_end", "im_end|>",
    "<|im_end|><|im_end|>", "<<|im_end|>>", "<|IM_END|>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<fim_prefix>", "<|file_sep|>x", "<repo_name>y",
    "<file_sep>", "<filename>a.py", "<jupyter_start>", "</s>", "<s>", "<unk>", "<pad>", "[INST] x [/INST]", "<0x0A>", "Ġhello", "▁hello", "Ċ",
    "<tool_call>\n{}\n</tool_call>", "<think>", "</think>", "<|box_start|>", "<|vision_pad|>",
]


def texts():
    yield from WORDS
    yield from CODE
    for code in CODE:  # pieces of code, cut in the middle of things
        for at in (7, 23, 41):
            yield code[at : at + 40]
    for n in (4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 1000):
        yield " " * n
        yield " " * n + "x"
        yield "x" + "\n" * n
    for n in (2, 3, 8, 9, 100):
        yield "\t" * n + "x"
        yield ("\r\n" * n) + "  x"
        yield "=" * n + "-" * n + "." * n
        yield "a" * n + "A" * n
        yield "的" * n
        yield "🦀" * n
    for a in "aA1 \n\t.'_é中🦀":
        for b in "aA1 \n\t.'_é中🦀":
            yield f"x{a}{b}y"


def main(model_path, out_path):
    model = llama_cpp.Llama(model_path=model_path, vocab_only=True, verbose=False)
    pre = model.metadata.get("tokenizer.ggml.pre")
    user_defined = []
    for token in range(model.n_vocab()):
        attributes = llama_cpp.llama_vocab_get_attr(model._model.vocab, token)
        if attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED:
            user_defined.append(model._model.token_get_text(token))
    cases = []
    for text in dict.fromkeys(texts()):
        reference = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        reference = reference.encode()
        case = {"text": text}
        if "</s>" not in text:
            case["parsed"] = model.tokenize(reference, add_bos=False, special=True)
        if not any(token in text for token in user_defined):
            case["as_text"] = model.tokenize(reference, add_bos=False, special=False)
        cases.append(case)
    golden = {"reference": f"llama-cpp-python {llama_cpp.__version__}", "pre": pre, "cases": cases}
    with open(out_path, "w", encoding="utf-8") as out:
        out.write(json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('},{"text"', '},\n{"text"') + "\n")
    print(f"{out_path}: {len(cases)} texts, user defined: {user_defined}")


if __name__ == "__main__":
    main(*sys.argv[1:])
