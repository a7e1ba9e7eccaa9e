"""Probe a checkpoint, or a configuration before any training.

python recipes/probe.py CHECKPOINT_OR_CONFIG [--probes init lesion lens landscape curvature reuse]

CHECKPOINT_OR_CONFIG is the folder of a run, a checkpoint (any Hugging Face causal language model), or the YAML
configuration of a run. Each probe prints a table and writes it as parquet, and its figure as HTML, SVG, PNG and PDF.
"""

from dataclasses import asdict
from pathlib import Path

import resformer
from resformer.probing import opened_target
from resformer.programs import parser_of, read_arguments, run_program
from resformer.training.probes import PROBES, ProbeConfig, can_have, refuse


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of(ProbeConfig, "probe.py", "Probe a checkpoint or a configuration.", skip={"depths"})
    parser.add_argument("target", type=str, metavar="CHECKPOINT_OR_CONFIG",
                        help="run folder, checkpoint folder or YAML configuration")  # fmt: skip
    parser.add_argument("--probes", type=str, nargs="+", default=[],
                        help=f"of {', '.join(PROBES)}; by default all that the target can have")  # fmt: skip
    parser.add_argument("--out", type=str | None, default=None,
                        help="folder of the results; by default probes/ beside the target")  # fmt: skip
    parser.add_argument("--depths", type=int, nargs="+", default=ProbeConfig().depths, help="init: numbers of blocks")
    options = read_arguments(parser, arguments)
    path, asked, out = options.pop("target"), options.pop("probes"), options.pop("out")
    config = ProbeConfig(**options)
    config.check()
    target = opened_target(path, config.seed)
    for name in asked:
        refuse(name, target.model)
    for name in asked or (["init"] if target.untrained else can_have(target.model)):
        try:
            found = resformer.probe(target, name, **asdict(config))
        except ValueError as error:
            if asked:
                raise
            print(f"\n{name} left out: {error}")
            continue
        print(f"\n{found}\nin {found.save(out) / Path(name)}.parquet and .html, figures/{name}.svg, .png, .pdf")
    return 0


if __name__ == "__main__":
    run_program(main)
