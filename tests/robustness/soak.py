"""One run that is disturbed for as long as one likes, beside one that is left alone: their ends are compared.

python tests/robustness/soak.py [--minutes 120] [--text FILE] [--seed 0] [--steps N] [--folder EMPTY_FOLDER]

The disturbed run lives on a small file system of its own. Every minute or two it is killed, told to end, or finds its
disk full; between two attempts one of its files may be damaged (a flipped bit, cut, emptied, removed); in some attempts
the clock steps back. It is always started again by the same command. Of the run that is left alone the memory is
measured over its whole life.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import psutil
from kill_harness import count_lines
from run_helpers import Runs, differences, strict_json

from resformer.files import damage

SAVE_EVERY, EVAL_EVERY, LENGTH, BATCH = 50, 150, 64, 8
FLAGS = f"""
    --data.tokenizer bpe:512 --data.sequence_length {LENGTH} --data.validation_fraction 0.02 --data.num_workers 1
    --model.hidden_size 64 --model.num_hidden_layers 3 --model.hidden_dropout 0.1 --schedule.name constant
    --train.batch_size {BATCH} --train.micro_batch_size 4 --train.save_every {SAVE_EVERY} --train.keep_checkpoints 3
    --train.eval_every {EVAL_EVERY} --train.eval_sequences 32 --train.log_every 10 --train.record_every 25
    --train.compile false
"""
DISK = 48  # megabytes
SHARE = 0.5  # of the time in which the run is to be trained; the rest is for what is done to it
CLOCK = """
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <sys/time.h>
    #include <time.h>
    #include <unistd.h>
    static time_t begun;
    static time_t back(void) {
        struct timespec now;
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
        if (!begun) begun = now.tv_sec;
        return now.tv_sec - begun < atoi(getenv("SOAK_AFTER")) ? 0 : atoi(getenv("SOAK_BACK"));
    }
    __attribute__((constructor)) static void begin(void) { back(); }
    int clock_gettime(clockid_t id, struct timespec *at) {
        int failed = syscall(SYS_clock_gettime, id, at);
        if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec -= back();
        return failed;
    }
    int gettimeofday(struct timeval *at, void *zone) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
        return 0;
    }
    time_t time(time_t *at) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        return at ? (*at = now.tv_sec) : now.tv_sec;
    }
"""


class Disk:
    """A small file system, or, where none can be mounted, a folder that never gets full."""

    def __init__(self, place: Path):
        self.place, self.filler = place, place / "filler"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "none", place]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> None:
        try:
            with open(self.filler, "ab", buffering=0) as file:
                while self.mounted:
                    file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", self.place], check=True)


class Memory:
    """Megabytes of a process and of its children, over time."""

    def __init__(self, pid: int):
        self.process = psutil.Process(pid)
        self.samples: list[tuple[float, float, float, float]] = []  # minutes, resident, its peak, its children
        self.begun: float | None = None

    def sample(self, trains: bool) -> None:
        """Minute 0 is when the first step is done."""
        if not trains:
            return
        self.begun = self.begun or time.monotonic()
        minutes = (time.monotonic() - self.begun) / 60
        if self.samples and minutes < self.samples[-1][0] + 0.05:
            return
        try:
            children = sum(child.memory_info().rss for child in self.process.children(recursive=True))
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except (psutil.Error, OSError):  # it has ended
            return
        found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
        if found:
            now = int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024, children / 2**20
            self.samples.append((minutes, *now))

    def lines(self) -> list[str]:
        """Medians over half a minute around some minutes, and at the end."""
        if not self.samples:
            return []
        end = self.samples[-1][0]
        found = []
        for minute in sorted({at for at in (1, 5, 15, 30, 60, 90) if at < end - 1} | {max(0.0, end - 0.25)}):
            near = [sample for sample in self.samples if abs(sample[0] - minute) <= 0.25]
            if not near:
                continue
            resident, peak, children = (median(column) for column in list(zip(*near, strict=True))[1:])
            found.append(f"minute {minute:5.1f}: {resident:,.0f} (peak {peak:,.0f}), workers {children:,.0f}")
        return found


class Soak:
    """The disturbed run: its attempts, what is done to it, and what it says of that."""

    def __init__(self, runs: Runs, disk: Disk, flags: list[str], steps: int):
        self.runs, self.disk, self.steps = runs, disk, steps
        self.run, self.cache = disk.place / "run", disk.place / "cache"
        self.flags = [*flags, "--train.max_steps", str(steps), "--data.cache_dir", str(self.cache)]
        self.attempts = 0
        self.done: Counter[str] = Counter()
        self.damaged: Counter[str] = Counter()
        self.ours: set[Path] = set()  # checkpoints that were damaged from here
        self.said: Counter[str] = Counter()
        self.faults: list[str] = []
        self.start_ups = [20.0]  # seconds
        self.log = open(runs.folder / "soak.log", "w", buffering=1)  # noqa: SIM115
        self.clock = self.make_clock()

    def make_clock(self) -> Path | None:
        """A library that turns back what every program sees as the time of day; the machine's own clock stays."""
        source, library = self.runs.folder / "clock.c", self.runs.folder / "clock.so"
        source.write_text(CLOCK)
        if not (compiler := shutil.which("cc")):
            return None
        made = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], capture_output=True)
        return None if made.returncode else library

    def step(self) -> int:
        """Of the newest checkpoint."""
        kept = [path.name.removeprefix("step-") for path in self.run.glob("checkpoints/step-*")]
        return max((int(number) for number in kept if number.isdecimal()), default=0)

    def start_up(self) -> float:
        """Seconds until it trains."""
        return median(self.start_ups[-9:])

    def note(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} attempt {self.attempts}, step {self.step()}: {text}", file=self.log)

    def attempt(self, disturb: bool, longest: float, watch) -> bool:
        """Start it, do one thing to it, and see how it ends. Returns whether it has finished."""
        self.attempts += 1
        environment = {}
        what = random.choice(["SIGKILL", "SIGKILL", "SIGTERM", "full disk", "full disk"]) if disturb else "nothing"
        if disturb and self.clock and random.random() < 0.4:
            back = random.choice([3600, 86_400, 40 * 86_400])
            environment = {
                "LD_PRELOAD": str(self.clock), "SOAK_AFTER": str(random.randint(0, 60)), "SOAK_BACK": str(back)
            }  # fmt: skip
            self.done["clock stepped back"] += 1
        if what == "full disk" and random.random() < 0.25:
            self.disk.fill()
            self.done["disk full before it began"] += 1
        with open(self.runs.folder / "out.txt", "w+") as out, open(self.runs.folder / "err.txt", "w+") as err:
            process = subprocess.Popen(
                [sys.executable, *self.runs.arguments(str(self.run), *self.flags)], stdout=out, stderr=err,
                env=self.runs.environment() | environment, start_new_session=True,
            )  # fmt: skip
            begun, trains, in_start_up = time.monotonic(), False, random.random() < 0.15
            until = begun + random.uniform(0, self.start_up())
            while process.poll() is None and not (disturb and time.monotonic() > until):
                watch()
                time.sleep(0.05)
                if not trains and opens_metrics(process.pid):
                    trains = True
                    self.start_ups.append(time.monotonic() - begun)
                    until = time.monotonic() + random.uniform(0.1, 1) * longest
                elif not trains and not in_start_up:
                    until = math.inf
            ended = process.poll() is not None
            if what in ("SIGKILL", "SIGTERM") and not ended:
                self.done[what] += 1
                number = getattr(signal, what)
                (os.killpg if what == "SIGKILL" else os.kill)(process.pid, number)
            elif what == "full disk" and not ended:
                self.disk.fill()
                self.done["disk filled"] += 1
                room_at = time.monotonic() + random.uniform(2, 40)
                while process.poll() is None and time.monotonic() < room_at:
                    watch()
                    time.sleep(0.05)
                if process.poll() is None:
                    self.disk.empty()
                    self.done["disk emptied while it trained"] += 1
                    time.sleep(random.uniform(1, 10))
                    if process.poll() is None:
                        self.done["SIGKILL"] += 1
                        os.killpg(process.pid, signal.SIGKILL)
            try:
                code = process.wait(180)
            except subprocess.TimeoutExpired:
                self.faults.append(f"attempt {self.attempts}: it did not end within 180 s of {what}")
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
            err.seek(0)
            self.judge(code, err.read(), what)
        return code == 0

    def judge(self, code: int, err: str, what: str) -> None:
        """Whether it ended as it should, and whether what it says can be done."""
        lines = [line for line in err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        rest = [line for line in lines if not line.startswith(("error: ", "warning: "))]
        self.note(f"{what}, ended with {code}; " + " | ".join(lines))
        self.said.update(re.sub(r"\S*/|\d+", "", line)[:110] for line in lines if line.startswith("warning: "))
        allowed = {0, 2, -signal.SIGKILL} if what != "SIGTERM" else {0, 2, -signal.SIGTERM, 128 + signal.SIGTERM}
        # One that this harness killed may just have said why it would end.
        one_line = len(errors) <= 1 if code == -signal.SIGKILL else len(errors) == (code == 2)
        if code not in allowed or not one_line or rest:
            self.faults.append(f"attempt {self.attempts} ({what}) ended with {code}: {err[-500:]!r}")
        if code == 2 and errors:
            self.said[re.sub(r"\S*/|\d+", "", errors[0])[:110]] += 1
            self.obey(errors[0])
        for path in self.run.glob("checkpoints/step-*"):
            if path.suffix != ".set-aside" and path not in self.ours and (wrong := damage(path)):
                self.faults.append(f"attempt {self.attempts} ({what}) left {path.name}, of which {wrong}")

    def obey(self, line: str) -> None:
        """Do what a line of the run says must be done."""
        if "o space left" in line or "put right what failed" in line or "make room" in line:
            self.disk.empty()
            for aside in self.run.glob("checkpoints/*.set-aside"):
                self.done["set aside checkpoints removed to make room"] += 1
                shutil.rmtree(aside)
        elif named := re.search(r"remove (it|\S+)", line):
            path = Path(re.search(r"error: (\S+)", line)[1] if named[1] == "it" else named[1].rstrip(":;,"))
            assert self.disk.place in path.parents, line
            (shutil.rmtree if path.is_dir() else os.remove)(path)
            self.done[f"{path.name} removed as told"] += 1
        else:
            self.faults.append(f"attempt {self.attempts}: it does not say what to do: {line}")

    def damage_a_file(self) -> None:
        """One file of the run or of its cache: a bit is flipped, or it is cut, emptied, or removed."""
        logs = [path for path in self.run.glob("*") if path.is_file()]
        kept = [path for path in self.run.glob("*/**/*") if path.is_file() and "set-aside" not in str(path)]
        if len(set(self.run.glob("checkpoints/step-????????")) - self.ours) < 2 and self.step() > self.steps / 10:
            kept = []  # a run all of whose checkpoints are damaged begins anew: early, or it never ends
        cached = [path for path in self.cache.rglob("*") if path.is_file()]
        groups = [group for group in (logs, logs, kept, kept, cached) if group]
        if not groups:
            return
        path, how = random.choice(random.choice(groups)), random.choice(["flipped", "cut", "emptied", "removed"])
        data = bytearray(path.read_bytes())
        if how == "removed":
            path.unlink()
        elif how == "flipped" and data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            path.write_bytes(data)
        else:
            path.write_bytes(data[: random.randrange(len(data))] if how == "cut" and data else b"")
        step = next((part for part in path.parents if part.name.startswith("step-")), None)
        self.ours |= {step} if step else set()
        place = "checkpoint" if step else "token cache" if self.cache in path.parents else path.name
        self.damaged[f"{place} {how}"] += 1
        self.note(f"{path.relative_to(self.disk.place)} {how}")


def main(minutes: float, text: str, seed: int, steps: int | None, folder: Path) -> int:
    """Returns 0 if nothing was lost, and prints what was done to the run."""
    random.seed(seed)
    runs, disk = Runs(folder), Disk(folder / "disk")
    flags = [*FLAGS.split(), "--data.source", text]
    try:
        if steps is None:
            code, _, err = runs.outside("calibration", *flags, "--train.max_steps", "300")
            assert code == 0, err
            speeds = [line["tokens_per_second"] for line in lines_of(folder / "calibration")]
            steps = int(minutes * 60 * SHARE * median(speeds) / (LENGTH * BATCH)) // 500 * 500
        return soak(runs, disk, flags, steps, minutes, seed)
    finally:
        disk.unmount()


def soak(runs: Runs, disk: Disk, flags: list[str], steps: int, minutes: float, seed: int) -> int:
    began = time.monotonic()
    whole, told = runs.folder / "undisturbed", [*flags, "--train.max_steps", str(steps)]
    with open(runs.folder / "undisturbed.txt", "w") as output:
        reference = subprocess.Popen(
            [sys.executable, *runs.arguments("undisturbed", *told)], stdout=output, stderr=output,
            env=runs.environment(), start_new_session=True,
        )  # fmt: skip
    memory, disturbed = Memory(reference.pid), Soak(runs, disk, flags, steps)
    last = steps - 5 * SAVE_EVERY

    def watch() -> None:
        memory.sample(count_lines(whole) > 0)

    finished = False
    while not finished and len(disturbed.faults) < 20:
        speeds = [line["tokens_per_second"] / (LENGTH * BATCH) for line in lines_of(disturbed.run)[-50:]]
        speed = median(speeds) if speeds else steps / (minutes * 60 * SHARE)
        left, wanted = began + minutes * 60 - time.monotonic(), steps - disturbed.step()
        disturb = left > 1.15 * wanted / speed and disturbed.step() < last
        # As long as it takes to end on time: what a start costs, and what has not been saved at its end, is lost.
        trains = (wanted / left * disturbed.start_up() + SAVE_EVERY / 2) / (speed - wanted / left) if disturb else 0.0
        finished = disturbed.attempt(disturb, 2 * min(trains, minutes * 60 / 8), watch)
        disk.empty()
        if not finished and disturb and random.random() < 0.7:
            disturbed.damage_a_file()
    seconds = time.monotonic() - began
    while reference.poll() is None:
        watch()
        time.sleep(0.1)
    faults = disturbed.faults + ([] if reference.returncode == 0 else ["the undisturbed run failed"])
    for aside in disturbed.run.glob("checkpoints/*.set-aside"):
        shutil.rmtree(aside)
    if finished and not reference.returncode:
        faults += differences(whole, disturbed.run)

    print(f"seed                    {seed}")
    print(
        f"steps of the run        {steps:,}, {steps // SAVE_EVERY} checkpoints, {steps // EVAL_EVERY - 1} evaluations"
    )
    print(f"disturbed               {seconds / 60:.0f} minutes, {disturbed.attempts} attempts")
    print(f"done to it              {told_of(disturbed.done)}")
    print(f"files damaged           {disturbed.damaged.total()}: {told_of(disturbed.damaged)}")
    print("what it said")
    for line, times in disturbed.said.most_common():
        print(f"  {times} x {line}")
    if not disk.mounted:
        print("no small file system could be mounted: the disk was never full")
    if disturbed.clock is None:
        print("there is no C compiler: the clock was never turned back")
    print("memory of the undisturbed run, MB")
    for line in memory.lines():
        print(f"  {line}")
    print(f"faults                  {len(faults)}")
    for fault in faults:
        print(f"  {fault}")
    equal = "weights, moments, metrics, every row of layers.parquet and summary equal"
    print(f"lost                    {'see above' if faults else f'nothing: {equal}'}")
    return 1 if faults else 0


def opens_metrics(pid: int) -> bool:
    """Whether a run has come to where it trains."""
    try:
        return any("metrics.jsonl" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def lines_of(run: Path) -> list[dict]:
    """Of metrics.jsonl, those that can be read and tell a speed."""
    found = []
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            values = strict_json(line.decode())
        except ValueError:
            continue
        if isinstance(values, dict) and values.get("tokens_per_second"):
            found.append(values)
    return found


def told_of(counted: Counter[str]) -> str:
    return ", ".join(f"{times} {name}" for name, times in counted.most_common())


if __name__ == "__main__":
    python = Path(os.__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--text", default=f"{python}/[a-h]*.py", help="by default a part of Python's standard library")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="by default as many as half of the time is enough for")
    parser.add_argument("--folder", type=Path)
    arguments = vars(parser.parse_args())
    if arguments["folder"]:
        arguments["folder"].mkdir(parents=True, exist_ok=True)
        sys.exit(main(**arguments))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(**(arguments | {"folder": Path(temporary)})))
