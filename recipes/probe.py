"""Probe a checkpoint, or a configuration before any training.

python recipes/probe.py CHECKPOINT_OR_CONFIG [--probes init lesion lens landscape curvature reuse]

CHECKPOINT_OR_CONFIG is the folder of a run, a checkpoint (any Hugging Face causal language model), or the YAML
configuration of a run. Each probe prints a table and writes it as parquet, and its figure as HTML, SVG, PNG and PDF.
"""

import dataclasses
from pathlib import Path

import pandas as pd
import torch
from jsonargparse import ArgumentParser
from transformers.utils import logging

from resformer import ResformerForCausalLM
from resformer.data import load_corpus
from resformer.programs import run_program
from resformer.report.charts import save
from resformer.report.probe_figures import FIGURES
from resformer.report.run_page import figure, write_page
from resformer.stability.curvature import curvature
from resformer.stability.landscape import landscape
from resformer.stability.layouts import layout
from resformer.stability.lens import lens
from resformer.stability.lesion import lesion
from resformer.stability.propagation import DEPTHS, LeftOut, ladder
from resformer.stability.reuse import reach, reuse
from resformer.training.instrumentation import probe_batch
from resformer.training.probing import Target, open_target

PROBES = ("init", "lesion", "lens", "landscape", "curvature", "reuse")
ROWS = ["layer", "sublayer", "metric", "value"]


def can_have(model) -> list[str]:
    """The probes that a model's class allows."""
    if isinstance(model, ResformerForCausalLM):
        return list(PROBES)
    try:
        layout(model)
    except ValueError:
        return ["landscape", "curvature"]
    return ["lesion", "lens", "landscape", "curvature"]


def init(target: Target, arguments, batch) -> pd.DataFrame:
    found = []
    config = target.init_config(arguments.width, arguments.initialization)
    for one in ladder(config, arguments.depths, seeds=range(arguments.seed, arguments.seed + arguments.seeds),
                      budget=arguments.budget):  # fmt: skip
        if isinstance(one, LeftOut):
            print(f"{one.depth} blocks left out: about {one.seconds:.0f} s, more than --budget {arguments.budget:g}")
        else:
            found.append(one)
    return pd.DataFrame([dataclasses.asdict(one) for one in found])


def line_and_plane(target: Target, arguments, batch) -> pd.DataFrame:
    found = landscape(target.model, batch, points=arguments.points, radius=arguments.radius, seed=arguments.seed)
    table = pd.DataFrame(found, columns=["a", "b", "loss"])
    return table.assign(kind=["line" if i < arguments.points else "plane" for i in range(len(table))])


def curve(target: Target, arguments, batch) -> pd.DataFrame:
    moments = target.second_moments()
    whose = "the batch's gradients" if moments is None else "the run's optimiser"
    print(f"\nP of the preconditioned sharpness is of the second moments of {whose}")
    found = dataclasses.asdict(curvature(target.model, batch, v=moments, seed=arguments.seed))
    return pd.DataFrame([(-1, "model", name, value) for name, value in found.items()], columns=ROWS)


def who_reads_whom(target: Target, arguments, batch) -> pd.DataFrame:
    reads = reuse(target.model, batch, seed=arguments.seed)
    table = pd.DataFrame([dataclasses.asdict(read) for read in reads])
    distances = reach(reads)
    return table.assign(reach=[distances[reader][0] for reader in table.reader],
                        entropy=[distances[reader][1] for reader in table.reader])  # fmt: skip


RUN = {
    "init": init,
    "lesion": lambda target, arguments, batch: pd.DataFrame(lesion(target.model, batch), columns=ROWS),
    "lens": lambda target, arguments, batch: pd.DataFrame(lens(target.model, batch), columns=ROWS),
    "landscape": line_and_plane,
    "curvature": curve,
    "reuse": who_reads_whom,
}


def shown(probe: str, table: pd.DataFrame) -> pd.DataFrame:
    """What of a table goes on the screen."""
    if probe in ("lesion", "lens"):
        whole = table[table.sublayer == "model"]
        print(
            *(f"{row.metric} {row.value:.4g}" for row in whole.itertuples()), sep=", ", end="\n" if len(whole) else ""
        )
        return table.drop(whole.index).pivot_table(index="layer", columns=["metric", "sublayer"], values="value")
    if probe == "curvature":
        return table[["metric", "value"]].set_index("metric")
    if probe == "landscape":
        return table[table.kind == "line"][["a", "loss"]].iloc[::2].set_index("a")
    if probe == "reuse":
        return table.groupby("reader")[["reach", "entropy"]].first()
    of_seeds = table.drop(columns=["seed"]).groupby(["depth", "dtype"])
    return of_seeds.median(numeric_only=True).assign(finite=of_seeds.finite.all())


def conditions(probe: str, target: Target, arguments, batch) -> str:
    """What a figure's caption says of how it was made."""
    if probe == "init":
        return (f"{arguments.target}; without training, width {arguments.width}, {arguments.seeds} seed(s) from "
                f"{arguments.seed}; CPU")  # fmt: skip
    of = f"{arguments.target}, {target.model.num_parameters():,} parameters"
    sequences, time = batch["input_ids"].shape
    source = arguments.source or (target.data or {}).get("source")
    return f"{of}; {sequences} held-out sequences of {time} tokens of {source}; seed {arguments.seed}; float32, CPU"


def main(arguments_given: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="probe.py", description="Probe a checkpoint or a configuration.", exit_on_error=False)
    add = parser.add_argument
    add("target", type=str, metavar="CHECKPOINT_OR_CONFIG", help="run folder, checkpoint folder or YAML configuration")
    add(
        "--probes",
        type=str,
        nargs="+",
        default=[],
        help=f"of {', '.join(PROBES)}; by default all that the target can have",
    )
    add("--out", type=str | None, default=None, help="folder of the results; by default probes/ beside the target")
    add("--source", type=str | None, default=None, help="text for the batch; by default the run's own held-out text")
    add("--sequence_length", type=int | None, default=None, help="tokens; by default the run's, or 128")
    add("--sequences", type=int, default=8, help="held-out sequences of the batch")
    add("--seed", type=int, default=0, help="of directions, tokens and initial weights")
    add("--depths", type=int, nargs="+", default=list(DEPTHS), help="init: numbers of blocks")
    add("--width", type=int, default=64, help="init: width of the stream")
    schemes = "normal, depth_scaled, or xavier with unit embeddings, as in the theory; by default the target's"
    add("--initialization", type=str | None, default=None, help=f"init: {schemes}")
    add("--seeds", type=int, default=1, help="init: how many")
    add("--budget", type=float, default=60.0, help="init: seconds above which a depth is left out")
    add("--points", type=int, default=21, help="landscape: points along each direction")
    add("--radius", type=float, default=1.0, help="landscape: how far, in lengths of the weights")
    try:
        arguments = parser.parse_args(arguments_given)
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error

    for name, fewest in (("sequences", 1), ("depths", 1), ("width", 1), ("seeds", 1), ("points", 2)):
        least = min(arguments.depths) if name == "depths" else getattr(arguments, name)
        if least < fewest:
            raise ValueError(f"--{name} is {least}; it must be at least {fewest}")
    logging.disable_progress_bar()
    target = open_target(arguments.target, arguments.seed)
    able = can_have(target.model)
    default = ["init"] if target.untrained else able
    probes = arguments.probes or default
    for name in probes:
        if name not in PROBES:
            raise ValueError(f"--probes: there is no {name!r}; there are {', '.join(PROBES)}")
        if name not in able:
            why = "needs a resformer" if name in ("init", "reuse") else "needs a layout that it knows"
            raise ValueError(f"--probes: {name} {why}, not {type(target.model).__name__}; that can have "
                             f"{', '.join(able)}")  # fmt: skip
    batch = None
    if set(probes) != {"init"}:
        data = target.data_config(arguments.source, arguments.sequence_length)
        corpus = load_corpus(data)
        batch = probe_batch(corpus, arguments.sequences)
        torch.manual_seed(arguments.seed)
        target.fit(corpus)
    out = Path(arguments.out) if arguments.out else target.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    for name in probes:
        try:
            table = RUN[name](target, arguments, batch)
        except ValueError as error:
            if arguments.probes:
                raise
            print(f"\n{name} left out: {error}")
            continue
        table.to_parquet(out / f"{name}.parquet")
        chart = FIGURES[name](table)
        caption = conditions(name, target, arguments, batch)
        save(chart, out, name, caption)
        write_page(out / f"{name}.html", f"{name}: {arguments.target}", figure(name, caption), {name: chart.to_dict()})
        print(f"\n{name}")
        print(shown(name, table).to_string(float_format=lambda value: f"{value:.4g}", na_rep=""))
        print(f"in {out}/{name}.parquet, .html, .svg, .png")
    return 0


if __name__ == "__main__":
    run_program(main)
