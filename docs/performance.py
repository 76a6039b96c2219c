"""The page of performance, from the results that are committed in bench/results."""

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from docs.markdown import code, table

BENCH = Path(__file__).parent.parent / "bench"
RESULTS = BENCH / "results"

Row = dict[str, Any]

_HEAD = """\
# Performance

Every number here comes from a script in [bench/](../bench/README.md) and a result that is committed beside it, with
its host, versions and commit. To measure again: leave the machine alone, `make bench`, then `make docs`.

Weights are random in the released shapes: speed does not depend on their values. A share of the read bandwidth is what
a step must read at least (weights, keys and values) over what it could have read in that time; a share of the GEMM
rate is what a prompt must compute at least over torch's own matrix product. Both rates are measured in the same run.
"""

# What we mean to publish: the stem of a result's file, how to make it, and what it would show.
EXPECTED = {
    "peers_cpu": ("python -m bench.peers", "us beside transformers and llama.cpp on a CPU"),
    "offline_cpu": ("python -m bench.offline", "the engine alone on a CPU"),
    "serve_cpu": ("python -m bench.serve", "a server under load on a CPU"),
    "fairness_cpu": ("python -m bench.fairness", "what streams feel of a long prompt"),
    "parallel_cpu": ("python -m bench.parallel", "one model on several ranks of a CPU"),
    "answer_cache": ("python -m bench.answer_cache", "answers from Redis"),
    "structured": ("python -m bench.structured", "what grammars cost"),
    "download": ("python -m bench.download", "downloads beside curl and sha256sum"),
    "reconcile": ("python -m bench.reconcile", "the operator's reconcile"),
    "autoscale": ("python -m bench.autoscale", "thresholds and pace of autoscaling"),
    "operator_scale": ("python -m bench.operator_scale", "the operator with a thousand deployments"),
    "offline_cuda": ("python -m bench.offline --device cuda", "the 0.3B shape on a GPU"),
    "offline_cuda_21b-a3b": ("python -m bench.offline --device cuda --size 21b-a3b", "the 21B shape on a GPU"),
    "parallel_cuda": ("python -m bench.parallel --device cuda", "the 21B shape on several GPUs"),
    "gpu_kernels": ("python -m bench.gpu_kernels", "each GPU kernel beside torch's own"),
    "peers_cuda": ("python -m bench.peers --device cuda", "us beside transformers on a GPU"),
    "serve_cuda": ("python -m bench.serve --device cuda", "a server under load on a GPU"),
    "serve_vllm": ("python -m bench.serve --device cuda --url URL --write serve_vllm", "vLLM under the same load"),
}

# What of a result an older one may lack: titles of its lists of rows.
PARTS = {"parallel_cpu": ("decoding", "loading")}


def performance_page(results: Path = RESULTS) -> str:
    """One section per result, the expected ones first, then what is not measured."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    order = [name for name in EXPECTED if name in found] + [name for name in found if name not in EXPECTED]
    return _HEAD + "".join(_section(name, found[name]) for name in order) + _unmeasured(found)


def _section(name: str, result: Row) -> str:
    text = f"\n## {_title(name, result['benchmark'])}\n\n{_measured_on(result['environment'])}\n"
    if result["plan"]:
        text += (
            "\nPlan: " + ", ".join(f"{_words(key)} {_plain(value)}" for key, value in result["plan"].items()) + ".\n"
        )
    results = result["results"]
    if isinstance(results, list):
        return text + "\n" + rows_table(results)
    for title, rows in results.items():
        text += f"\n### {title.capitalize()}\n\n" + rows_table(rows)
    return text


def _title(name: str, benchmark: str) -> str:
    """The first sentence of the benchmark's own description."""
    description = ast.get_docstring(ast.parse((BENCH / f"{benchmark}.py").read_text())) or name
    first, _, _ = description.partition("\n\n")
    return f"{' '.join(first.split()).rstrip('.')} ({code(name)})"


def _measured_on(facts: Row) -> str:
    """Where and when, and what speaks against trusting it."""
    host = f"{facts['cpu']}, {facts['cores']} cores, {facts['isa']}"
    if "gpu" in facts:
        host += f"; {facts['gpu']}, {facts['gpu_memory_gib']} GiB, CUDA {facts['cuda']}"
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "transformers"))
    text = f"{facts['date']} at commit {code(facts['commit'])}, {host}; Python {facts['python']}, {versions}."
    for key, what in (("read_gb_per_s", "Memory reads {:g} GB/s"), ("gemm_gflop_per_s", "GEMM runs at {:g} GFLOP/s")):
        if key in facts:
            text += f" {what.format(facts[key]['before'])} ({facts[key]['after']:g} afterwards)."
    if facts.get("dirty"):
        text += " **The tree had uncommitted changes.**"
    if facts.get("busy"):
        text += f" **The machine was not left alone: others took {facts['cores_taken_by_others']:g} cores.**"
    return text


def rows_table(rows: Iterable[Row]) -> str:
    """Rows as a table; a column for every name that some row has, nested objects flattened, empty columns left out."""
    flat = [dict(_flat(row)) for row in rows]
    heads = [name for name in dict.fromkeys(key for row in flat for key in row) if _filled(name, flat)]
    return table([_words(name) for name in heads], [[_cell(name, row.get(name)) for name in heads] for row in flat])


def _flat(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield prefix + name, value


def _filled(name: str, rows: Iterable[Row]) -> bool:
    return any(row.get(name) is not None for row in rows)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and (name.startswith("share_") or name.endswith(("_share", "_rate", "spread"))):
        return f"{value:.1%}"
    return _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(_plain, value)) or "none"
    return "" if value is None else str(value)


def _words(name: str) -> str:
    """A column's name for people: `ttft_p50_ms` is `ttft p50 ms`, rates are per second."""
    return name.replace("_per_second", "/s").replace("_per_s", "/s").replace("_", " ")


def _unmeasured(found: Row) -> str:
    rows = [(what, code(command)) for name, (command, what) in EXPECTED.items() if name not in found]
    for name in found.keys() & PARTS.keys():
        command, what = EXPECTED[name]
        rows += [(f"{what}: {part}", code(command)) for part in PARTS[name] if part not in found[name]["results"]]
    if not rows:
        return ""
    text = "\n## Not measured\n\nThese have a script and no committed result, and nothing is claimed about them."
    if not any("gpu" in result["environment"] for result in found.values()):
        text += " No GPU has run any of this so far."
    return text + "\n\n" + table(["what", "command"], rows)
