"""Train a Transformer whose residual connections you choose.

accelerate launch --num_processes 1 recipes/train.py [--config FILE] [--dotted.key VALUE ...]
"""

import functools
import math
import time

import torch

from resformer import ResformerForCausalLM
from resformer.data import training_batches
from resformer.report.run_page import show_run_page
from resformer.training import checkpoints, finishing, nonfinite, resuming, setup, sharding
from resformer.training.config import parse_arguments
from resformer.training.evaluation import bits_per_byte, evaluate
from resformer.training.instruments import make_instruments
from resformer.training.interruption import Interruption
from resformer.training.launch import make_accelerator, run_program, start_trackers
from resformer.training.optimizers import build_optimizers, lr_factor, set_learning_rate
from resformer.training.records import Recorder
from resformer.training.step import train_step


def main(arguments: list[str] | None = None) -> int:
    interruption = Interruption()
    config = parse_arguments(arguments)
    train = config.train
    accelerator = make_accelerator(config.run_dir, config.trackers)
    micro_batch_size = setup.micro_batch_size(config, accelerator)
    corpus = setup.load_corpus_once(config, accelerator)

    torch.manual_seed(config.init_seed)
    model = ResformerForCausalLM(setup.model_config(config, corpus))
    if train.shard:
        sharding.shard(model, accelerator)
    optimizers = build_optimizers(model, config.optimizer)
    folder = setup.open_run_folder(config, accelerator)
    instruments = make_instruments(config, folder, model, optimizers, corpus, accelerator)
    resumed = resuming.find(config)
    load = functools.partial(resuming.load, corpus=corpus, accelerator=accelerator, micro_batch_size=micro_batch_size)
    progress = load(resumed, model, optimizers) if resumed else checkpoints.Progress()
    if progress.step >= train.max_steps and finishing.is_complete(folder, progress):
        accelerator.print(f"{folder} is complete, {progress.step} steps; give another --run_dir to train anew")
        return 0
    resuming.set_later_ones_aside(folder, progress.step, accelerator)
    start_trackers(accelerator, resuming.flat(config.as_dict()))
    finishing.greet(config, model, corpus, accelerator, resumed)
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if train.compile:
        setup.compile_blocks(model)
    wrapped, *optimizers = setup.prepare(accelerator, model, optimizers)
    accumulation = train.batch_size // (micro_batch_size * accelerator.num_processes)
    recorder = Recorder(folder / "metrics.jsonl", accelerator, progress.step, train.max_steps, progress.metrics_lines)
    clock = time.perf_counter() - progress.seconds

    def batches_from(progress: checkpoints.Progress):
        return training_batches(
            corpus.train,
            seed=config.data_seed,
            batch_size=train.batch_size,
            micro_batch_size=micro_batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            start_step=progress.batch,
            max_steps=train.max_steps + progress.batches_passed_over,
            num_workers=config.data.num_workers,
        )

    def log(**values) -> None:
        recorder.log(progress.step, progress.step * train.batch_size * config.data.sequence_length, **values)

    def evaluate_and_log(sequences: int | None = None) -> float:
        val_loss = evaluate(model, corpus, accelerator, micro_batch_size, sequences)
        log(val_loss=val_loss, val_bits_per_byte=bits_per_byte(val_loss, corpus))
        return val_loss

    def save() -> None:
        instruments.write()
        progress.metrics_lines, progress.extra_state = recorder.synchronise(), {"watch": instruments.state_dict()}
        checkpoints.save(
            folder, model, optimizers, corpus, progress, accelerator, train.keep_checkpoints, micro_batch_size
        )

    def answer_nonfinite(loss: float, grad_norm: float) -> str:
        """Skip, roll back or stop at a batch whose loss or gradient is not finite; its step was not taken."""
        nonlocal progress, batches
        action = nonfinite.answer(train, progress)
        event = {"event": action, "batch": progress.batch, "finite_loss": math.isfinite(loss)}
        if action == "skip":
            progress.count_skip()
            log(**event, **instruments.take(progress.step, loss, grad_norm))
        elif action == "rollback":
            restored = load(resuming.newest_whole(folder), model, optimizers)
            progress = nonfinite.pass_over(failed=progress, restored=restored)
            recorder.rewind(progress.metrics_lines, keep_events=True)
            instruments.begin(progress.step, progress.extra_state.get("watch"))
            instruments.watch.rollbacks = progress.rollbacks
            log(**event)
            batches = batches_from(progress)
        else:
            save()  # the state before this batch, and the lines before the one that follows
            log(**event, **instruments.take(progress.step + 1, loss, grad_norm))
            instruments.write()
        return action

    status, val_loss, code = "completed", None, 0
    instruments.begin(progress.step, progress.extra_state.get("watch"))
    model.train()
    batches = batches_from(progress)
    interruption.defer()
    if train.on_nonfinite == "rollback" and not checkpoints.checkpoints(folder):
        save()  # there must be something to go back to
    while progress.step < train.max_steps and status == "completed":
        if progress.step % train.eval_every == 0 and progress.step != progress.evaluated_step:
            evaluate_and_log(train.eval_sequences)
            progress.evaluated_step = progress.step
            recorder.pause()
        factor = lr_factor(progress.step, train.max_steps, config.schedule)
        learning_rate = config.optimizer.learning_rate * factor
        set_learning_rate(optimizers, factor)
        key = f"{config.dropout_seed}|{progress.batch}"
        with instruments.around(progress.step + 1, learning_rate):
            loss, grad_norm, updated = train_step(
                wrapped, optimizers, batches, accumulation, config.optimizer, accelerator, key
            )
        progress.seconds = time.perf_counter() - clock

        if updated:
            progress.count_update(loss)
            seen = instruments.take(progress.step, loss, grad_norm)
            if progress.step % train.log_every == 0 or progress.step == train.max_steps or seen:
                log(loss=loss, learning_rate=learning_rate, grad_norm=grad_norm, **seen)
        elif (action := answer_nonfinite(loss, grad_norm)) == "stop":
            status = "diverged"
            break
        elif action == "rollback":
            continue
        recorder.advance(progress.step)
        if code := interruption.agreed(accelerator):
            status = "interrupted"
        if status == "interrupted" or progress.step % train.save_every == 0 or progress.step == train.max_steps:
            save()
            recorder.pause()

    if status == "completed":
        interruption.end_at_once()  # all is saved
        val_loss = evaluate_and_log()
        status = "completed" if math.isfinite(val_loss) else "diverged"
    recorder.close()
    whole = sharding.gathered(model, accelerator)
    finishing.finish(status, config, whole, corpus, progress, accelerator, val_loss, instruments.watch)
    if accelerator.is_main_process and train.record_every:
        show_run_page(folder)
    # Before the process group goes: the reducer in `wrapped` would free it holding the interpreter's lock, and wait
    # for gloo's thread, which may be waiting for that lock.
    del wrapped
    accelerator.free_memory()
    accelerator.end_training()
    return {"completed": 0, "diverged": 3}.get(status) or code


if __name__ == "__main__":
    run_program(main)
