#!/usr/bin/env python3
"""Train a Transformer whose residual connections you choose.

accelerate launch --num_processes 1 recipes/train.py [--config FILE] [--dotted.key VALUE ...]
"""

from resformer.programs import apart, run_program
from resformer.training.config import parse_arguments


def main(arguments: list[str] | None = None) -> int:
    config = parse_arguments(arguments)
    from resformer.report.runs import show_run_page  # help waits for none of these
    from resformer.training import Trainer

    trainer = Trainer(config)
    code = trainer.train()
    if trainer.accelerator.is_main_process and trainer.config.train.record_every and trainer.config.train.draw:
        apart(show_run_page, trainer.folder)
    return code


if __name__ == "__main__":
    run_program(main)
