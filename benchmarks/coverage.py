"""Which networks can be pruned; Torch-Pruning compared. `coverage_networks.py` lists them.

For each network, in separate processes: derive the channel graph, prune to two ratios by random scores, prove each
rebuild, save it, load it in a new process and compare outputs, and export it to ONNX. Then Torch-Pruning (1.6.1) halves
the same network, and the script compares its outputs with those of the original with the pruned channels zeroed.

    python benchmarks/coverage.py run [NAME...]     # appends to coverage.jsonl; without names what is not in it
    python benchmarks/coverage.py rerun [NAME...]   # the same for cfp; keeps the last result of Torch-Pruning
    python benchmarks/coverage.py table             # writes docs/coverage.md from it
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from coverage_networks import CLASSES, VARIABLE, build, is_registered, parts, side
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cfp_cli.checkpoints.load import load
from cfp_cli.checkpoints.save import save
from cfp_cli.checkpoints.spec import ModelSpec, describe, spec_of
from cfp_cli.exporting.export import export
from cfp_cli.foundation.errors import CfpError, GraphError
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.difference import first_difference
from cfp_cli.graph.probe import HARD_CODED
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.graph.slicing import sliced_copy
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.planning import make_plan
from cfp_cli.pruning.pruner import apply
from cfp_cli.scoring.scores import Scores, SetScores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "coverage.jsonl"
PAGE = ROOT / "docs" / "coverage.md"
NETWORKS = Path(__file__).with_name("coverage_networks.py")
RATIOS = (0.5, 0.9)
# Random selections of each network whose rebuilds are compared with the original.
SELECTIONS = 5
# Reasons that freeze the channels of the outputs.
RETURNED = ("logits", "output of the network")
# Limits for each process. Where Torch-Pruning gives no answer, it usually never ends.
SECONDS = {"ours": 300, "reload": 300, "export": 300, "torch-pruning": 120}


def images(size: tuple[int, int], count: int) -> Tensor:
    """Seeded noise."""
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def ours(name: str, folder: Path) -> dict[str, Any]:
    """Prune with cfp, and write checkpoints and their logits to `folder`."""
    model, size = build(name), (side(name), side(name))
    classes = tuple(str(index) for index in range(CLASSES)) if is_registered(name) else ()
    spec = ModelSpec(name if is_registered(name) else f"{NETWORKS}:factory", classes, input_size=size)
    describe(model, spec)
    x = images(size, 4)
    began = time.perf_counter()
    graph = channel_sets(model, x[:1])
    row: dict[str, Any] = {
        "graph_seconds": time.perf_counter() - began,
        "params": Selection(graph).parameters,
        "sets": len(graph.sets),
        "channels": int(graph.offsets[-1]),
        "frozen": sum(s.size for s in graph.sets if s.frozen and set(s.frozen).isdisjoint(RETURNED)),
        "reasons": sorted({f"{operator}: {reason}" for _, operator, reason in graph.frozen} | _probed(graph)),
        "ratios": {},
    }
    row["refused_selections"] = refused_selections(model, graph, x[:2])
    scores = random_scores(graph, size)
    for ratio in RATIOS:
        began = time.perf_counter()
        try:
            made = make_plan(model, scores, PruneOptions(ratio=ratio, allocation="uniform"), graph=graph)
            planned = time.perf_counter()
            pruned, made = apply(model, made, graph=graph, example=x)
            result = {
                "achieved": made.achieved,
                "error": made.max_abs_logit_error,
                "plan_seconds": planned - began,
                "rebuild_seconds": time.perf_counter() - planned,
            }
            save(folder / f"{ratio}.pt", pruned, ModelSpec(**{**spec.__dict__, "plan": made.to_json()}))
            with torch.no_grad():
                torch.save(flat(pruned(x)), folder / f"{ratio}.outputs")
        except Exception as error:
            result = {"failure": f"{type(error).__name__}: {error}"}
        row["ratios"][str(ratio)] = result
    return row


def refused_selections(model: nn.Module, graph: ChannelGraph, x: Tensor) -> int:
    """How many of some random selections fail the proof. A prune would refuse them and write nothing."""
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(SELECTIONS):
        selection, _ = random_selection(graph, float(rng.uniform(0.3, 0.8)), rng, spread=0.2)
        try:
            refused += first_difference(sliced_copy(model, selection), selection, x) is not None
        except GraphError:
            refused += 1
    return refused


def random_scores(graph: ChannelGraph, size: tuple[int, int]) -> Scores:
    """Random scores; the benchmark measures the rebuild, not the choice of channels."""
    rng = np.random.default_rng(0)
    sets = tuple(
        SetScores(
            channel_set.name,
            rng.random(channel_set.size),
            rng.random(channel_set.size * (channel_set.size - 1) // 2, np.float32),
            rng.random(channel_set.size),
            float(channel_set.size),
        )
        for channel_set in graph.prunable
    )
    return Scores((), sets, "norm", "rank", 0, size, 0.0, 0.0, {})


def _probed(graph: ChannelGraph) -> set[str]:
    return {f"trial rebuild: {HARD_CODED}"} if any(HARD_CODED in s.frozen for s in graph.sets) else set()


def flat(outputs: Any) -> Tensor:
    """All floating-point outputs as one vector."""
    tensors = [each for each in tree_leaves(outputs) if isinstance(each, Tensor) and each.is_floating_point()]
    return torch.cat([each.flatten() for each in tensors])


def reload(folder: Path) -> dict[str, Any]:
    """Load pruned checkpoints in a new process and compare their outputs, by ratio."""
    differences = {}
    for path in sorted(folder.glob("*.pt")):
        model = load(path, f"{NETWORKS}:factory" if VARIABLE in os.environ else None)
        expected = torch.load(path.with_suffix(".outputs"), weights_only=True)
        with torch.no_grad():
            outputs = flat(model(images(spec_of(model).input_size, 4)))
        differences[path.stem] = float((outputs - expected).abs().max())
    return differences


def exported(folder: Path) -> dict[str, Any]:
    """Export the network at the smaller ratio to ONNX, which is checked in onnxruntime, in a new process."""
    path = folder / f"{RATIOS[0]}.pt"
    if not path.exists():
        return {"failure": "not pruned"}
    model = load(path, f"{NETWORKS}:factory" if VARIABLE in os.environ else None)
    try:
        report = export(model, folder / "small.onnx", samples=images(spec_of(model).input_size, 4))
    except CfpError as error:
        return {"failure": f"{type(error).__name__}: {error}".replace(str(folder) + "/", "")[:300]}
    return {"error": report.max_relative_error, "bytes": report.bytes}


def torch_pruning(name: str) -> dict[str, Any]:
    """Halve with Torch-Pruning and compare with the original with the pruned channels zeroed.

    To zero a channel of the original, the script zeroes its rows of a convolution or linear weight, its bias, and its
    scale and shift in a batch norm. Both networks must then compute the same logits. A norm over channels depends on
    the zeros, so for networks with such norms the script only checks that they run.
    """
    model, x = build(name), images((side(name), side(name)), 2)
    zeroed = build(name)
    zeroed.load_state_dict(model.state_dict())
    before = sum(parameter.numel() for parameter in model.parameters())
    began = time.perf_counter()
    try:
        with torch.no_grad():
            classes = [
                module
                for module in model.modules()
                if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.shape[0] == CLASSES
            ]
        pruner = tp.pruner.MagnitudePruner(
            model, x, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=classes
        )
        names = {module: key for key, module in model.named_modules()}
        remaining: dict[str, Tensor] = {}
        comparable = True
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                module = dependency.target.module
                outgoing = pruner.DG.is_out_channel_pruning_fn(dependency.handler)
                if module not in names or not outgoing or not hasattr(module, "weight") or module.weight is None:
                    continue
                try:
                    _zero(zeroed.get_submodule(names[module]), remaining, names[module], indices)
                except IndexError:
                    # Torch-Pruning names channels that the original does not have; its network may be right.
                    comparable = False
            group.prune()
        with torch.no_grad():
            outputs, expected = flat(model(x)), flat(zeroed(x))
    except Exception as error:
        return {"verdict": "crash", "failure": f"{type(error).__name__}: {str(error)[:160]}"}
    after = sum(parameter.numel() for parameter in model.parameters())
    row: dict[str, Any] = {"seconds": time.perf_counter() - began, "removed": 1 - after / before}
    comparable &= not any(isinstance(module, nn.LayerNorm | nn.GroupNorm) for module in model.modules())
    difference = float((outputs - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    row["difference"] = difference
    if after == before:
        row["verdict"] = "nothing pruned"
    elif not comparable:
        row["verdict"] = "runs, not checked"
    else:
        row["verdict"] = "pass" if difference <= 1e-4 else "wrong"
    return row


def _zero(module: nn.Module, remaining: dict[str, Tensor], name: str, indices: list[int]) -> None:
    weight, bias = module.weight, module.bias
    dim = 1 if isinstance(module, nn.ConvTranspose2d) and module.groups == 1 else 0
    # Torch-Pruning counts indices among the channels that it has not removed yet.
    channels = remaining.setdefault(name, torch.arange(weight.shape[dim]))
    dropped = channels[indices]
    keep = torch.ones(len(channels), dtype=torch.bool)
    keep[indices] = False
    remaining[name] = channels[keep]
    with torch.no_grad():
        weight.index_fill_(dim, dropped, 0)
        if bias is not None:
            bias.index_fill_(0, dropped, 0)


def _child(name: str, task: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, task, *arguments]
    environment = os.environ if is_registered(name) else {**os.environ, VARIABLE: name}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS[task], check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "no answer", "failure": f"more than {SECONDS[task]} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        # Folders of this machine say nothing to others.
        return {"verdict": "crash", "failure": re.sub(r"(/[\w.-]+)+/", "", last)[:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def run(names: list[str], *, only_ours: bool = False) -> None:
    """Measure networks and append one line of results for each.

    Args:
        names: the networks; none for all without a result, or with `only_ours` for all.
        only_ours: keep the last result of Torch-Pruning.
    """
    known = _rows()
    everything = [name for part in parts().values() for name in part]
    chosen = names or [name for name in everything if only_ours or name not in known]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            ours = _child(name, "ours", name, folder)
            ours["reload"] = _child(name, "reload", folder)
            ours["export"] = _child(name, "export", folder)
        keep = only_ours and name in known
        other = known[name]["torch_pruning"] if keep else _child(name, "torch-pruning", name)
        row = {"name": name, "ours": ours, "torch_pruning": other}
        row |= {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()}
        row["load"] = os.getloadavg()[0]
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(name, f"{time.perf_counter() - began:.0f} s", _summary(row["ours"]), row["torch_pruning"].get("verdict"))


def _summary(row: dict[str, Any]) -> str:
    if "ratios" not in row:
        return "FAILED " + str(row.get("failure"))
    return "  ".join(f"{ratio}: {_achieved(row, ratio)}" for ratio in row["ratios"])


def _achieved(row: dict[str, Any], ratio: str) -> str:
    result, difference = row["ratios"][ratio], row["reload"].get(ratio)
    if "failure" in result:
        most = re.search(r"at most ([0-9.]+%) can be removed", str(result["failure"]))
        return f"refused: at most {most[1]}" if most else str(result["failure"])
    if difference != 0:
        return f"reload differs: {difference} {row['reload'].get('failure', '')}"
    return f"{result['achieved']:.1%}, {result['error']:.0e}"


def _rows() -> dict[str, Any]:
    """The last result of each network, by name."""
    rows = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
    return {row["name"]: row for row in rows}


def _pending(rows: dict[str, Any]) -> str:
    """How many networks of the list have no result, as a sentence; empty if all have one."""
    missing = [name for names in parts().values() for name in names if name not in rows]
    return f" The script lists {len(missing)} more networks, which were not measured." if missing else ""


def page() -> str:
    """The text of the page, from the last result of each network."""
    rows = _rows()
    ordered = [rows[name] for part in parts().values() for name in part if name in rows]
    refusals = [row["ours"]["refused_selections"] for row in ordered if "refused_selections" in row["ours"]]
    tried, refused = SELECTIONS * len(refusals), sum(refusals)
    lines = [
        "# Coverage",
        "",
        "Generated by `benchmarks/coverage.py` (`run`, then `table`). Random weights and scores, 64 x 64 images unless",
        f"the network needs larger ones, {CLASSES} classes, uniform allocation, torch {ordered[0]['torch']}, "
        f"{ordered[0]['threads']} thread(s).",
        "",
        f"{_reaching(ordered, RATIOS[:1])} of {len(ordered)} networks prune to 50 % and "
        f"{_reaching(ordered, RATIOS[1:])} to 90 %",
        "with the proof holding. If frozen channels do not allow a ratio, cfp refuses it, reports the largest possible",
        "ratio, and writes nothing. Torch-Pruning 1.6.1, asked to halve every layer, computes the right function on",
        f"{_verdicts(ordered, 'pass')}, the wrong one on {_verdicts(ordered, 'wrong')}, and ends with an error on "
        f"{_verdicts(ordered, 'crash')}, and gives no answer in {SECONDS['torch-pruning']} s on "
        f"{_verdicts(ordered, 'no answer')}.",
        "",
        f"The proof also held for {tried - refused:,} of {tried:,} random selections, {SELECTIONS} each of "
        f"{len(refusals)} networks; cfp",
        f"refuses the others.{_pending(rows)}",
        "",
        "| part | networks | 50 % | 90 % | Torch-Pruning: pass | wrong | error | no answer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part, names in parts().items():
        measured = [rows[name] for name in names if name in rows]
        counts = [_reaching(measured, (ratio,)) for ratio in RATIOS]
        counts += [_verdicts(measured, verdict) for verdict in ("pass", "wrong", "crash", "no answer")]
        lines.append(f"| {part} | {len(measured)} | {' | '.join(map(str, counts))} |")
    lines += [
        "",
        "- *sets*: channel sets; *frozen*: channels other than the outputs that are never pruned, of all channels.",
        "- *50 %*, *90 %*: parameters removed, and the largest absolute difference of the outputs between the rebuilt",
        "  network and the original with the dropped channels zeroed. Each network was also saved and loaded in a new",
        "  process, where it computed the same outputs.",
        "- *ONNX*: the network at 50 % exported and run by onnxruntime: error as a fraction of the largest output.",
        "  Empty: not tried here; [exports](exports.md) has 121 classifiers.",
        "- *graph*, *plan*, *rebuild*: seconds; plan and rebuild at 90 %, rebuild includes the proof.",
        f"  {_load(ordered)}",
        "- *Torch-Pruning*: pass = the halved network computes the same outputs as the zeroed original; wrong = it",
        "  runs but computes others; not checked = norms over channels depend on zeroed channels, or Torch-Pruning",
        "  names channels that the original does not have, so the comparison does not apply.",
    ]
    reasons: dict[str, list[str]] = {}
    for part, names in parts().items():
        lines += ["", f"## {part}", ""]
        lines += [
            "| network | parameters | sets | frozen | 50 % | 90 % | ONNX | graph | plan | rebuild | Torch-Pruning |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in (rows[name] for name in names if name in rows):
            lines.append(_line(row))
            for reason in row["ours"].get("reasons", []):
                reasons.setdefault(reason, []).append(row["name"])
    lines += ["", "## Why channels are frozen", ""]
    lines += [f"- `{reason}`: {', '.join(names)}" for reason, names in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


def _load(rows: list[dict[str, Any]]) -> str:
    loads = [row["load"] for row in rows if "load" in row]
    if len(loads) < len(rows):
        return "Other work ran on the machine, so the seconds are upper bounds."
    return f"The machine's load was {min(loads):.1f} to {max(loads):.1f}."


def _reaching(rows: list[dict[str, Any]], ratios: tuple[float, ...]) -> int:
    """Number of networks that reached the ratios, proven and reloaded with the same outputs."""
    return sum(all(_holds(row["ours"], str(ratio)) for ratio in ratios) for row in rows)


def _holds(ours: dict[str, Any], ratio: str) -> bool:
    result = ours.get("ratios", {}).get(ratio, {})
    return "error" in result and ours["reload"].get(ratio) == 0


def _verdicts(rows: list[dict[str, Any]], verdict: str) -> int:
    return sum(row["torch_pruning"].get("verdict") == verdict for row in rows)


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["ours"], row["torch_pruning"]
    name = row["name"].removeprefix("torchvision:")
    other = theirs.get("verdict", "?") + (f" ({theirs['removed']:.0%})" if "removed" in theirs else "")
    if "ratios" not in ours:
        return f"| {name} | | | | {ours.get('failure')} | | | | | | {other} |"
    low, high = (ours["ratios"][str(ratio)] for ratio in RATIOS)
    timed = high if "plan_seconds" in high else low
    seconds = [f"{timed.get(key, float('nan')):.1f}" for key in ("plan_seconds", "rebuild_seconds")]
    reached = [_achieved(ours, str(ratio)) for ratio in RATIOS]
    return (
        f"| {name} | {ours['params']:,} | {ours['sets']} | {ours['frozen']} / {ours['channels']} | {reached[0]} | "
        f"{reached[1]} | {_export(ours)} | {ours['graph_seconds']:.1f} | {seconds[0]} | {seconds[1]} | {other} |"
    )


def _export(ours: dict[str, Any]) -> str:
    """The error of the exported file, why there is none, or nothing where no export was tried."""
    found = ours.get("export")
    if found is None:
        return ""
    return f"{found['error']:.0e}" if "error" in found else str(found["failure"])


def main() -> None:
    """Run one task; those of `SECONDS` print one JSON object."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("run", "rerun", "table", *SECONDS))
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.task in ("run", "rerun"):
        run(arguments.names, only_ours=arguments.task == "rerun")
    elif arguments.task == "table":
        PAGE.write_text(page(), encoding="utf-8")
    else:
        name, *rest = arguments.names
        if arguments.task == "ours":
            result = ours(name, Path(rest[0]))
        elif arguments.task == "torch-pruning":
            result = torch_pruning(name)
        else:
            result = reload(Path(name)) if arguments.task == "reload" else exported(Path(name))
        print(json.dumps(result))


if __name__ == "__main__":
    main()
