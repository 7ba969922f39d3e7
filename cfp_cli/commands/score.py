"""`cfp score MODEL DATA`."""

from __future__ import annotations

from pathlib import Path

import click

from cfp_cli.commands.console import Console
from cfp_cli.commands.model_options import ModelOptions, model_options
from cfp_cli.commands.next_command import next_command
from cfp_cli.commands.options import (
    Compute,
    Reading,
    compute_options,
    data_options,
    examples,
    output_options,
    pass_console,
    run_option,
    seed_option,
)
from cfp_cli.scoring.criteria import (
    DEFAULT_RICHNESS,
    DEFAULT_SIMILARITY,
    RICHNESSES,
    SIMILARITIES,
    Richness,
    Similarity,
)

# What the columns of the table mean.
EXPLANATION = (
    "channels: or units of several channels, such as attention heads, that are dropped together; clusters: groups of "
    "similar channels; independent: how many channels vary independently of each other over the "
    "images. A set with far fewer than its channels is redundant; dead: channels whose maps are the same for all "
    "images, which are pruned first"
)


@click.command(
    short_help="Score every prunable channel of a model.",
    epilog=examples(
        "cfp score model.pt data/", "cfp score weights.pth data/ --arch torchvision:resnet50 --input-size 224"
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@model_options
@click.option("--images", type=click.IntRange(1), default=640, show_default=True, help="Training images to sample.")
@click.option(
    "--similarity",
    type=click.Choice(SIMILARITIES),
    default=DEFAULT_SIMILARITY,
    show_default=True,
    help="Distance by which channels are clustered.",
)
@click.option(
    "--richness",
    type=click.Choice(RICHNESSES),
    default=DEFAULT_RICHNESS,
    show_default=True,
    help="How channels are ranked inside a cluster.",
)
@click.option(
    "--decimals",
    type=click.IntRange(0, 7),
    default=4,
    show_default=True,
    help="Only with --richness rank: decimals to which maps are rounded before their rank is computed.",
)
@data_options
@run_option
@seed_option
@compute_options(batch_size=8)
@output_options
@pass_console
def score(
    console: Console,
    model: Path,
    data: Path,
    how: ModelOptions,
    images: int,
    similarity: Similarity,
    richness: Richness,
    decimals: int,
    reading: Reading,
    run_folder: Path,
    seed: int,
    compute: Compute,
) -> None:
    """Score every prunable channel of MODEL over images of DATA.

    Runs one forward pass and computes the richness of every channel and the distances between channels of a set. Later
    commands read MODEL and DATA from the run directory.
    """
    from rich.table import Table

    from cfp_cli.runs.directory import Run
    from cfp_cli.runs.score import ScoreOptions, run_score
    from cfp_cli.scoring.clusters import ClusterRule, cut, labels

    with Run.exclusive(run_folder) as run:
        scores = run_score(
            run,
            how.file(model),
            reading.data(data, seed),
            ScoreOptions(images, similarity, richness, decimals, seed, compute.batch_size),
            device=compute.device,
            progress=console,
        )
    layers = [
        {
            "name": tap.name,
            "channels": tap.channels,
            "height": tap.height,
            "width": tap.width,
            "clusters": int(cut(tap.linkage, tap.span, ClusterRule()).max()),
            "richness_mean": float(tap.richness.mean()),
            "saturated": list(tap.saturated),
        }
        for tap in scores.taps
    ]
    sets = [
        {
            "name": each.name,
            "channels": each.channels,
            "clusters": int(labels(each.distance, ClusterRule()).max()),
            "independent": each.effective,
            "dead": len(each.dead),
        }
        for each in scores.sets
    ]
    table = Table("channel set", "channels", "clusters", "independent", "dead", title="scores", caption=EXPLANATION)
    for each in sets:
        cells = (each["name"], each["channels"], each["clusters"], f"{each['independent']:.1f}", each["dead"])
        table.add_row(*map(str, cells))
    flat = [tap.name for tap in scores.taps if tap.hardly_ranked and "richness" not in tap.saturated]
    if flat:
        more = f" and {len(flat) - 3} more" if len(flat) > 3 else ""
        console.say(
            f"warning: {richness} is nearly equal for most channels of {', '.join(flat[:3])}{more}, so it hardly ranks "
            "them; choose another criterion, such as --richness explained-variance"
        )
    for tap in scores.taps:
        for name in tap.saturated:
            criterion = similarity if name == "similarity" else richness
            console.say(
                f"warning: {criterion} is equal for all channels of {tap.name}; choose another criterion to rank them"
            )
    console.result(
        {
            "layers": layers,
            "sets": sets,
            "images": scores.images,
            "seconds": scores.seconds,
            "forward_seconds": scores.forward_seconds,
        },
        table,
        f"{scores.images} images in {scores.seconds:.1f} s ({scores.forward_seconds:.1f} s in the forward passes)",
        f"written {run.scores}",
        next_command(run_folder, "prune", "--ratio", "0.95", arch=how.factory),
    )
