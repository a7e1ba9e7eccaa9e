"""Train a Transformer whose residual connections you choose.

accelerate launch --num_processes 1 recipes/train.py [--config FILE] [--dotted.key VALUE ...]
"""

import time

import torch

from resformer import ResformerForCausalLM
from resformer.data import training_batches
from resformer.training import checkpoints, finishing, setup
from resformer.training.config import parse_arguments
from resformer.training.evaluation import bits_per_byte, evaluate
from resformer.training.launch import Interruption, make_accelerator, run_program
from resformer.training.optimizers import build_optimizers, lr_factor, set_learning_rate
from resformer.training.records import Recorder
from resformer.training.step import train_step


def main(arguments: list[str] | None = None) -> int:
    config = parse_arguments(arguments)
    train = config.train
    accelerator = make_accelerator(config.run_dir, config.trackers)
    micro_batch_size = setup.micro_batch_size(config, accelerator)
    corpus = setup.load_corpus_once(config, accelerator)

    torch.manual_seed(config.init_seed)
    model = ResformerForCausalLM(setup.model_config(config, corpus))
    optimizers = build_optimizers(model, config.optimizer)
    folder = setup.open_run_folder(config, accelerator)
    resumed = checkpoints.find(config)
    progress = checkpoints.load(resumed, model, optimizers, corpus) if resumed else checkpoints.Progress()
    if progress.step >= train.max_steps and (folder / "model").exists():
        accelerator.print(f"{folder} is complete, {progress.step} steps; give another --run_dir to train anew")
        return 0
    finishing.greet(config, model, corpus, accelerator, resumed)
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if train.compile:
        setup.compile_blocks(model)
    wrapped, *optimizers = accelerator.prepare(model, *optimizers)

    batches = training_batches(
        corpus.train,
        seed=config.data_seed,
        batch_size=train.batch_size,
        micro_batch_size=micro_batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        start_step=progress.step,
        max_steps=train.max_steps,
        num_workers=config.data.num_workers,
    )
    accumulation = train.batch_size // (micro_batch_size * accelerator.num_processes)
    tokens_per_step = train.batch_size * config.data.sequence_length
    recorder = Recorder(folder / "metrics.jsonl", accelerator, progress.step, train.max_steps)
    interruption = Interruption()
    status, code, loss, val_loss, clock = "completed", 0, None, None, time.perf_counter() - progress.seconds

    model.train()
    step, tokens = progress.step, progress.step * tokens_per_step
    while step < train.max_steps:
        factor = lr_factor(step, train.max_steps, config.schedule)
        set_learning_rate(optimizers, factor)
        setup.seed_dropout(config.dropout_seed, step, accelerator.process_index)
        loss, grad_norm, updated = train_step(wrapped, optimizers, batches, accumulation, config.optimizer, accelerator)
        progress.step += 1
        progress.seconds = time.perf_counter() - clock
        progress.skipped_updates += not updated
        step, tokens = progress.step, progress.step * tokens_per_step
        if step % train.log_every == 0 or step == train.max_steps or not updated:
            loss = float(accelerator.reduce(loss, "mean"))
            rate = config.optimizer.learning_rate * factor
            recorder.log(step, tokens, loss=loss, learning_rate=rate, grad_norm=grad_norm)
        recorder.advance()
        if not updated and train.on_divergence == "stop":
            status = "diverged"
        elif code := interruption.agreed(accelerator):
            status = "interrupted"
        elif step % train.eval_every == 0 and step < train.max_steps:
            some = evaluate(model, corpus, accelerator, micro_batch_size, train.eval_sequences)
            recorder.log(step, tokens, val_loss=some, val_bits_per_byte=bits_per_byte(some, corpus))
        if step % train.save_every == 0 or step == train.max_steps or status != "completed":
            checkpoints.save(folder, model, optimizers, corpus, progress, accelerator, train.keep_checkpoints)
            recorder.pause()
        if status != "completed":
            break

    if status == "completed":
        val_loss = evaluate(model, corpus, accelerator, micro_batch_size)
        recorder.log(step, tokens, val_loss=val_loss, val_bits_per_byte=bits_per_byte(val_loss, corpus))
    recorder.close()
    finishing.finish(status, config, model, corpus, progress, accelerator, loss, val_loss)
    accelerator.end_training()
    return 3 if status == "diverged" else code


if __name__ == "__main__":
    run_program(main)
