"""Write the network that `cfp shrink` chose, measure it, and test it once."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.files import sha256, write_bytes
from cfp_cli.measuring.intervals import Interval
from cfp_cli.measuring.metrics import Metrics
from cfp_cli.pruning.frontier import Budget
from cfp_cli.report.frontier import FrontierPoint
from cfp_cli.runs.candidate_maker import CandidateMaker
from cfp_cli.runs.candidates import Candidate
from cfp_cli.runs.inputs import DataInput, ModelInput, load_for, scored_data
from cfp_cli.runs.shrink_costs import Finished
from cfp_cli.runs.shrink_search import Search
from cfp_cli.runs.tested import TestSplit, accuracy_change

# A measured latency may exceed its budget by this factor: two measurements of one network differ about as much.
NOISE = 1.05


def write_chosen(maker: CandidateMaker, chosen: Candidate, out: Path) -> None:
    """Write the chosen network and the files that the other commands of the run read, and add their records."""
    run, student = maker.run, maker.student(chosen)
    copies = {run.pruned: (student, "pruned"), run.plan: (student, "plan")}
    if chosen.trained:
        copies |= {run.finetuned: (chosen, "finetuned"), run.folder / "history.csv": (chosen, "history")}
    for target, (candidate, name) in {**copies, out: (chosen, chosen.checkpoint)}.items():
        write_bytes(target, maker.stored.path(candidate, name).read_bytes())
    finetune = maker.finetune_record(chosen)
    # The newest records are those of the chosen network, whatever was tried after it.
    run.add(maker.prune_record(student))
    if finetune is not None:
        run.add(finetune)


def finish(maker: CandidateMaker, network: nn.Module) -> Finished | None:
    """Measure the chosen network beside the original; None if that is not possible, which is said.

    Raises:
        CfpError: that is not possible, and a budget or the target counts latency or bytes.
    """
    try:
        return maker.costs.finish(network)
    except CfpError as error:
        if maker.costs.measured:
            raise
        maker.progress.say(f"the latency is not measured: {error}")
        return None


def over_budget(budgets: tuple[Budget, ...], finished: Finished | None) -> tuple[str, ...]:
    """Return the budgets of latency and bytes that the finished network exceeds."""
    if finished is None:
        return ()
    found = []
    for budget in budgets:
        if budget.cost == "latency" and finished.after.median > budget.most * NOISE:
            found.append(str(budget))
        if budget.cost == "bytes" and finished.bytes is not None and finished.bytes > budget.most:
            found.append(str(budget))
    return tuple(found)


def test_split(maker: CandidateMaker, data: DataInput) -> TestSplit | None:
    """Return the test images; None without a test split or without labels."""
    scored = maker.scored
    source, dataset = scored_data(maker.run, data)
    if "test" not in dataset.splits or not dataset.labelled:
        return None
    dataset = dataset.in_order(scored.dataset.classes)
    return TestSplit(maker.run, source, dataset, maker.options.batch_size, scored.progress)


def tested_once(
    maker: CandidateMaker, chosen: Candidate, split: TestSplit | None
) -> tuple[Metrics | None, Metrics | None, Interval | None]:
    """Return test metrics of the original and of the chosen network, and the interval of the change of accuracy.

    All are None without test images.
    """
    if split is None:
        return None, None, None
    scored = maker.scored
    path = maker.stored.path(chosen, chosen.checkpoint)
    network, _ = load_for(split.dataset, ModelInput(path, maker.permission.arch, known=True), scored.progress)
    pair = ((scored.network, sha256(scored.model.path)), (network.to(scored.device), sha256(path)))
    change = accuracy_change([split.run(*each) for each in pair])
    original, small = (split.of(*each) for each in pair)
    return original, small, change


def frontier_point(search: Search, candidate: Candidate, chosen: bool) -> FrontierPoint:
    """Return a candidate as a point of the frontier."""
    judged, costs = search.judge(candidate), search.costs(candidate)
    return FrontierPoint(
        compression=candidate.compression,
        trained=candidate.trained,
        params=candidate.params,
        macs=candidate.macs,
        val=candidate.compared.metrics,
        loss=judged.loss.points,
        standard_error=judged.loss.standard_error,
        passes=judged.passes,
        chosen=chosen,
        seconds=candidate.seconds,
        latency_ms=costs.get("latency"),
        bytes=max(round(costs["bytes"]), 1) if "bytes" in costs else None,
    )
