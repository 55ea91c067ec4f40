"""Markdown tables of two sides measured in rounds: medians, and the ratio of the medians."""

import statistics


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def spread(ours, theirs):
    """The smallest and the largest ratio of a round."""
    ratios = [a / b for a, b in zip(ours, theirs)]
    return f"{min(ratios):.2f} - {max(ratios):.2f}"


def throughput(name, rows):
    """`rows`: {(test, parallel): {"engram": [row], "llama_cpp": [row]}}, a row as `bench engine --json` has it."""
    bounded = all("bound_tokens_per_second" in row for sides in rows.values() for row in sides["engram"])
    lines = []
    for (test, parallel), sides in rows.items():
        ours, theirs = ([row["tokens_per_second"] for row in sides[side]] for side in ("engram", "llama_cpp"))
        a, b = statistics.median(ours), statistics.median(theirs)
        line = [test, str(parallel), f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}", spread(ours, theirs)]
        if bounded:
            bound = statistics.median(row["bound_tokens_per_second"] for row in sides["engram"])
            line += [f"{bound:.0f}", f"{a / bound:.0%}", f"{b / bound:.0%}"]
        lines.append(line)
    head = ["test", "streams", "Engram tok/s", "llama.cpp tok/s", "ratio", "ratio by round"]
    head += ["the machine's bound", "Engram of it", "llama.cpp of it"] if bounded else []
    return f"{name}\n\n{table(head, lines)}"


SERVING = {
    "TTFT P50 ms": "ttft_p50_ms",
    "TTFT P95 ms": "ttft_p95_ms",
    "inter-token P50 ms": "inter_token_p50_ms",
    "inter-token P95 ms": "inter_token_p95_ms",
    "output tok/s, all": "tokens_per_second",
}


def serving(name, rounds):
    """`rounds`: {"engram": [round], "llama_cpp": [round]}, as server.py keeps them. A ratio says how much better Engram is."""
    lines = []
    for i, row in enumerate(rounds["engram"][0]["rows"]):
        medians = {
            side: [statistics.median(each["rows"][i][key] for each in rounds[side]) for key in SERVING.values()]
            for side in ("engram", "llama_cpp")
        }
        for side, label in (("engram", "Engram"), ("llama_cpp", "llama-server")):
            lines.append([str(row["clients"]), label, *(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in medians[side])])
        ratios = [
            a / b if key == "tokens_per_second" else b / a
            for key, a, b in zip(SERVING.values(), medians["engram"], medians["llama_cpp"])
        ]
        lines.append([str(row["clients"]), "times better", *(f"{ratio:.2f}" for ratio in ratios)])
    memory = ", ".join(
        f"{label} {max(each['resident_mib'] or 0 for each in rounds[side])} MiB after the warm-up and "
        f"{max(each['resident_peak_mib'] or 0 for each in rounds[side])} at most"
        for side, label in (("engram", "Engram"), ("llama_cpp", "llama-server"))
    )
    prompt = rounds["engram"][0]["rows"][0]["prompt_tokens"]
    return f"{name}, prompts of {prompt} tokens\n\n{table(['clients', 'server', *SERVING], lines)}\nResident: {memory}.\n"
