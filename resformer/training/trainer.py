"""The training loop."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..data import load_corpus, training_batches
from ..keys import flat
from ..model import ResformerForCausalLM
from ..programs import DIVERGED, DONE, is_watched
from . import checkpoints, compiling, finishing, nonfinite, resuming, setup, sharding
from .config import RunConfig
from .evaluation import bits_per_byte, evaluate
from .instrumentation import make_instruments
from .interruption import Interruption
from .launch import make_accelerator, start_trackers, takes_over_fsdp, track_results
from .metrics_log import MetricsLog
from .optimizers import build_optimizers, lr_factor, set_learning_rate
from .step import train_step


class Trainer:
    """One training run, from a configuration to a folder of files.

    Made to be subclassed: each method is one thing that a run does, and ``train`` is the order in which they are done.

    Args:
        config: of the run.

    Raises:
        ValueError: one line, for a run that cannot be: before its first file is written.
        OSError: if its files cannot be written.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.folder = Path(config.run_dir)
        config.train.shard |= takes_over_fsdp()
        self.accelerator = make_accelerator(config.run_dir, config.trackers, config.train.patience)
        self.micro_batch_size = setup.micro_batch_size(config, self.accelerator)
        self.accumulation = config.train.batch_size // (self.micro_batch_size * self.accelerator.num_processes)
        # One process fills the cache, the others find it there.
        self.corpus = load_corpus(config.data, show_progress=self.accelerator.is_main_process and is_watched())
        self.model = self.build_model()
        self.optimizers = self.build_optimizers()
        self.progress = checkpoints.Progress()
        self.status = "completed"

    def train(self) -> int:
        """Train to the end, or go on from where the run stood.

        Returns:
            The exit code: 0 done, 3 diverged, 130 or 143 interrupted; all that was trained is saved.
        """
        train = self.config.train
        with Interruption() as interruption, setup.run_folder(self.config, self.accelerator):
            if not self.begin():
                return DONE
            self.model.train()
            interruption.defer()
            if train.on_nonfinite == "rollback" and not checkpoints.checkpoints(self.folder):
                self.save()  # there must be something to go back to
            while self.progress.step < train.max_steps and self.status == "completed":
                if self.progress.step % train.eval_every == 0 and self.progress.step != self.progress.evaluated_step:
                    self.evaluate_and_log(train.eval_sequences)
                    self.progress.evaluated_step = self.progress.step
                    self.log.pause()
                if not self.step():
                    continue
                self.log.advance(self.progress.step)
                if interruption.agreed(self.accelerator):
                    self.status = "interrupted"
                if self.status == "interrupted" or self.is_due(train.save_every):
                    self.save()
                    self.log.pause()
            val_loss = None
            if self.status == "completed":
                interruption.end_at_once()  # all is saved
                val_loss = self.evaluate_and_log()
                self.status = "completed" if math.isfinite(val_loss) else "diverged"
            self.finish(val_loss)
            return {"completed": DONE, "diverged": DIVERGED}.get(self.status, interruption.exit_code)

    def build_model(self) -> ResformerForCausalLM:
        """The model at its initialisation; its weights split over the processes where ``train.shard`` says so."""
        torch.manual_seed(self.config.init_seed)  # type: ignore[arg-type]
        model_config = setup.model_config(self.config, self.corpus)
        setup.refuse_what_does_not_fit(self.config, model_config, self.accelerator, self.micro_batch_size)
        model = setup.initial_model(self.config, model_config)
        if self.config.train.shard:
            sharding.shard(model, self.accelerator)
        return model

    def build_optimizers(self) -> list:
        return build_optimizers(self.model, self.config.optimizer)

    def begin(self) -> bool:
        """Put everything in place, from the newest checkpoint if there is one; false where nothing is left to do."""
        train, accelerator = self.config.train, self.accelerator
        self.instruments = make_instruments(
            self.config, self.folder, self.model, self.optimizers, self.corpus, accelerator
        )
        resumed = resuming.find(self.config)
        if resumed:
            self.progress = self.load(resumed)
        self.progress.init_from_hash = setup.hash_of_initial_weights(self.config, self.progress)
        if self.progress.step >= train.max_steps and finishing.is_complete(self.folder, self.progress):
            accelerator.print(
                f"{self.folder} is complete, {self.progress.step} steps; give another --run_dir to train anew"
            )
            return False
        resuming.set_later_ones_aside(self.folder, self.progress.step, accelerator)
        if resumed and accelerator.is_main_process:
            checkpoints.restore_logs(self.folder, resumed)
        start_trackers(accelerator, flat(self.config.as_dict()))
        compiles, why = compiling.decide(self.config, self.model.config, accelerator)
        finishing.greet(self.config, self.model, self.corpus, accelerator, resumed)
        accelerator.print(f"compile    {'yes' if compiles else 'no'} ({why})", flush=True)
        if train.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        if compiles:
            compiling.compile_blocks(self.model)
        self.wrapped, *self.optimizers = setup.prepare(accelerator, self.model, self.optimizers)
        self.log = MetricsLog(
            self.folder / "metrics.jsonl",
            accelerator,
            step=self.progress.step,
            max_steps=train.max_steps,
            lines=self.progress.metrics_lines,
            tokens_per_step=train.batch_size * self.config.data.sequence_length,
        )
        self.clock = time.perf_counter() - self.progress.seconds
        self.begin_instruments(resumed)
        self.batches = self.batches_from(self.progress)
        return True

    def load(self, checkpoint: Path) -> checkpoints.Progress:
        """Put a checkpoint's weights and optimiser states into place."""
        return resuming.load(
            checkpoint,
            self.model,
            self.optimizers,
            corpus=self.corpus,
            accelerator=self.accelerator,
            micro_batch_size=self.micro_batch_size,
        )

    def begin_instruments(self, checkpoint: Path | None) -> None:
        """Let them go on from where ``progress`` stands, with what they left in ``checkpoint``."""
        tensors = checkpoints.instruments_tensors(checkpoint) if checkpoint else None
        self.instruments.begin(self.progress.step, self.progress.extra_state.get("watch"), tensors)

    def batches_from(self, progress: checkpoints.Progress) -> Iterator[dict[str, torch.Tensor]]:
        """This process's micro batches, ``[micro_batch_size, time]``, from where ``progress`` stands."""
        train = self.config.train
        return training_batches(
            self.corpus.train,
            seed=self.config.data_seed,  # type: ignore[arg-type]
            batch_size=train.batch_size,
            micro_batch_size=self.micro_batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            start_step=progress.batch,
            max_steps=train.max_steps + progress.batches_passed_over,
            num_workers=self.config.data.num_workers,
        )

    def step(self) -> bool:
        """One optimiser step, and what is to be said of it. One that is not finite is not taken, but answered.

        Returns:
            Whether the run is a step further; if not, it went back, or its status says how it ended.
        """
        config, progress = self.config, self.progress
        factor = lr_factor(progress.step, config.train.max_steps, config.schedule)
        learning_rate = config.optimizer.learning_rate * factor
        set_learning_rate(self.optimizers, factor)
        with self.instruments.around(progress.step + 1, learning_rate):
            loss, grad_norm, updated = train_step(
                self.wrapped,
                self.optimizers,
                self.batches,
                accumulation=self.accumulation,
                config=config.optimizer,
                accelerator=self.accelerator,
                dropout_key=f"{config.dropout_seed}|{progress.batch}",
            )
        progress.seconds = time.perf_counter() - self.clock
        if not updated:
            return self.answer_nonfinite(loss, grad_norm) == "skip"
        progress.count_update(loss)
        self.model.advance()
        seen = self.instruments.take(progress.step, loss, grad_norm)
        if self.is_due(config.train.log_every) or seen:
            self.log.write(progress.step, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm, **seen)
        return True

    def is_due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is to be done now."""
        return self.progress.step % every == 0 or self.progress.step == self.config.train.max_steps

    def answer_nonfinite(self, loss: float, grad_norm: float) -> str:
        """Skip, roll back or stop at a batch whose loss or gradient is not finite; its step was not taken."""
        action = nonfinite.answer(self.config.train, self.progress)
        event = {"event": action, "batch": self.progress.batch, "finite_loss": math.isfinite(loss)}
        if action == "skip":
            self.progress.count_skip()
            self.model.advance()  # as the learning rate, which does not wait either
            self.log.write(self.progress.step, **event, **self.instruments.take(self.progress.step, loss, grad_norm))
        elif action == "rollback":
            checkpoint = resuming.newest_whole(self.folder)
            restored = self.load(checkpoint)  # type: ignore[arg-type]
            self.progress = nonfinite.pass_over(failed=self.progress, restored=restored)
            self.log.rewind(self.progress.metrics_lines, keep_events=True)
            self.begin_instruments(checkpoint)
            self.instruments.watch.rollbacks = self.progress.rollbacks
            self.log.write(self.progress.step, **event)
            self.batches = self.batches_from(self.progress)
        else:
            self.save()  # the state before this batch, and the lines before the one that follows
            taken = self.instruments.take(self.progress.step + 1, loss, grad_norm)
            self.log.write(self.progress.step, **event, **taken)
            self.instruments.write()
            self.status = "diverged"
        return action

    def evaluate_and_log(self, sequences: int | None = None) -> float:
        """Held-out loss in nats per token, on the first ``sequences`` sequences or on all."""
        val_loss = evaluate(self.model, self.corpus, self.accelerator, self.micro_batch_size, sequences)
        self.log.write(self.progress.step, val_loss=val_loss, val_bits_per_byte=bits_per_byte(val_loss, self.corpus))
        return val_loss

    def save(self) -> None:
        """A checkpoint of this very step, whole or not at all."""
        self.instruments.write()
        self.progress.metrics_lines = self.log.synchronise()
        self.progress.extra_state = {"watch": self.instruments.state_dict()}
        checkpoints.save(
            self.folder,
            self.model,
            self.optimizers,
            corpus=self.corpus,
            progress=self.progress,
            accelerator=self.accelerator,
            keep=self.config.train.keep_checkpoints,
            micro_batch_size=self.micro_batch_size,
            tensors=self.instruments.tensors(),
        )

    def finish(self, val_loss: float | None) -> None:
        """Write what the run leaves, and let go of the processes."""
        self.log.close()
        whole = sharding.gathered(self.model, self.accelerator)
        if self.accelerator.is_main_process:
            summary = finishing.summarise(
                self.status,
                config=self.config,
                model=whole,
                corpus=self.corpus,
                progress=self.progress,
                accelerator=self.accelerator,
                val_loss=val_loss,
                watch=self.instruments.watch,
            )
            track_results(self.accelerator, summary)
            finishing.finish(summary, config=self.config, model=whole, corpus=self.corpus, accelerator=self.accelerator)
        # Before the process group goes: the reducer in `wrapped` would free it holding the interpreter's lock, and wait
        # for gloo's thread, which may be waiting for that lock.
        del self.wrapped
        self.accelerator.free_memory()
        self.accelerator.end_training()
