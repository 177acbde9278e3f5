"""Microseconds per step that a training loop costs: bare, ``DataLoader``, torchspeed, Accelerate, Lightning.

    make bench-peers                    # once: .venv-peers with Accelerate and Lightning, at the same torch
    .venv/bin/python bench/loop_overhead.py

The loops are in ``loop_worker.py``. In a round each runs in a process of its own, which it keeps for several blocks;
blocks are interleaved (A B C … A B C …), so that a machine that slows down slows all of them, and every block has its
partner for the ratio to bare. New rounds are new processes: where memory happens to lie is part of the spread.

Processor time (of all threads of the process) is told beside the time on the clock: where the ratios differ widely,
somebody else was using the machine. The target is on the clock.

"bare, peers" is the bare loop in the peers' environment. It should give a ratio of 1; its spread is what this
measurement can tell apart.
"""

import argparse
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from common import console, provenance, show, write
from loop_worker import BATCH_SIZE, SAMPLES, STEPS_PER_EPOCH
from torchspeed.measurement import Spread, ratio

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("loop_worker.py")
PEERS = ROOT / ".venv-peers" / "bin" / "python"
MAKE_PEERS = "python3 -m venv .venv-peers && .venv-peers/bin/pip install -c constraints.txt torch accelerate lightning"
REFERENCE = "bare"
TARGET = 1.10

OURS = {"bare": "bare", "DataLoader": "dataloader", "torchspeed": "torchspeed"}
THEIRS = {
    "bare, peers": "bare",
    "Accelerate": "accelerate",
    "Lightning": "lightning",
    "Lightning, bar and logger off": "lightning_off",
}


class Worker:
    """A process that runs blocks of one loop; the terminal it draws on is read and thrown away."""

    def __init__(self, python: str | Path, loop: str) -> None:
        self.loop = loop
        terminal, screen = pty.openpty()
        answers, replies = os.pipe()
        self.process = subprocess.Popen(
            [str(python), str(WORKER), loop, str(replies)],
            stdin=subprocess.PIPE,
            stdout=screen,
            stderr=screen,
            pass_fds=[replies],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            text=True,
        )
        os.close(screen)
        os.close(replies)
        self.answers = open(answers, encoding="utf-8")  # noqa: SIM115  closed in __exit__
        self.shown = bytearray()
        self.reader = threading.Thread(target=self._read, args=(terminal,), daemon=True)
        self.reader.start()

    def block(self, steps: int) -> dict[str, Any]:
        """Ask for ``steps`` steps and wait for them."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        line = self.answers.readline()
        if not line:
            self.reader.join(timeout=5)
            raise SystemExit(f"{self.loop}: the worker ended.\n{self.shown.decode(errors='replace')[-4000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _read(self, terminal: int) -> None:
        with open(terminal, "rb", buffering=0) as screen:
            try:
                while piece := screen.read(65536):
                    self.shown = (self.shown + piece)[-65536:]
            except OSError:  # how a terminal says that the other side is closed
                pass

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()  # which ends it
        if error is not None:
            self.process.kill()
        self.process.wait()
        self.answers.close()


def measure(names: dict[str, Worker], blocks: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Blocks of one round, interleaved; the order turns by one each time, so that nobody always follows the same."""
    warm = {name: worker.answer() for name, worker in names.items()}
    versions = {name: answer["torch"] for name, answer in warm.items()}
    if len(set(versions.values())) > 1:
        raise SystemExit(f"all loops must run the same torch; found {versions}. Make the peers anew: {MAKE_PEERS}")
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    order = list(names)
    for _ in range(blocks):
        for name in order:
            answers[name].append(names[name].block(steps))
        order.append(order.pop(0))
    return answers


def peers_versions() -> dict[str, str]:
    code = (
        "import json, importlib.metadata as m; "
        "print(json.dumps({name: m.version(name) for name in ('accelerate', 'lightning')}))"
    )
    found = subprocess.run([PEERS, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="sets of fresh processes (default 3)")
    parser.add_argument("--blocks", type=int, default=7, help="interleaved blocks per round (default 7)")
    parser.add_argument("--epochs", type=int, default=20, help=f"per block, of {STEPS_PER_EPOCH} steps (default 20)")
    parser.add_argument("--only", nargs="*", choices=[*OURS, *THEIRS], help="these and bare; nothing is written")
    chosen = parser.parse_args()
    wanted = {name for name in [*OURS, *THEIRS] if not chosen.only or name in (REFERENCE, *chosen.only)}
    if wanted & THEIRS.keys() and not PEERS.exists():
        raise SystemExit(f"Accelerate and Lightning have an environment of their own; make it once: {MAKE_PEERS}")

    about = provenance("cpu")
    if wanted & THEIRS.keys():
        about["versions"] |= peers_versions()
    steps = chosen.epochs * STEPS_PER_EPOCH
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in [*OURS, *THEIRS] if name in wanted}
    for number in range(chosen.rounds):
        console.print(f"round {number + 1} of {chosen.rounds}: {len(answers)} loops, {chosen.blocks} × {steps} steps")
        workers = {}
        try:
            for name in answers:
                python, loop = (sys.executable, OURS[name]) if name in OURS else (PEERS, THEIRS[name])
                workers[name] = Worker(python, loop).__enter__()
            for name, found in measure(workers, chosen.blocks, steps).items():
                answers[name] += found
        finally:
            for worker in workers.values():
                worker.__exit__(*sys.exc_info())

    report(answers, about, steps, keep=not chosen.only)


Figures = dict[str, list[float]]
Spreads = dict[str, Spread]


def per_step(answers: dict[str, list[dict[str, Any]]], clock: str) -> tuple[Figures, Spreads, Spreads]:
    """Microseconds of each block by one of the two clocks; their spread; the spread of the paired ratios to bare."""
    micros = {name: [1e6 * answer[clock] for answer in found] for name, found in answers.items()}
    spreads = {name: Spread.of(values) for name, values in micros.items()}
    return micros, spreads, {name: ratio(values, micros[REFERENCE]) for name, values in micros.items()}


def report(answers: dict[str, list[dict[str, Any]]], about: dict[str, Any], steps: int, keep: bool) -> None:
    micros, spreads, ratios = per_step(answers, "seconds_per_step")
    processor, processor_spreads, processor_ratios = per_step(answers, "processor_seconds_per_step")
    show(
        f"64-128-10 perceptron, batch {BATCH_SIZE}, Adam, one thread; {steps} steps per block. Median [quartiles]",
        ["loop", "µs per step", "÷ bare (paired)", "µs of processor ÷ bare"],
        [(name, spreads[name], ratios[name], processor_ratios[name]) for name in micros],
    )
    figures: dict[str, Any] = {
        "microseconds_per_step": spreads,
        "ratio_to_bare": ratios,
        "processor_microseconds_per_step": processor_spreads,
        "processor_ratio_to_bare": processor_ratios,
    }
    if "torchspeed" in answers:
        ours = answers["torchspeed"]
        stall = Spread.of([1e3 * answer["checkpoint_seconds"] for answer in ours])
        tensorboard = all(answer["tensorboard"] for answer in ours)
        met = ratios["torchspeed"].median <= TARGET
        console.print(
            f"torchspeed: progress, metrics.jsonl{' and TensorBoard' if tensorboard else ''} on; "
            f"{ratios['torchspeed'].median:.3f} × bare, at most {TARGET:.2f} wanted: {'met' if met else 'missed'}. "
            f"Not in it: a checkpoint every 30 s, {stall} ms"
        )
        figures |= {"target_ratio": TARGET, "target_met": met, "checkpoint_milliseconds": stall}
        figures["tensorboard"] = tensorboard
    setting = {"batch_size": BATCH_SIZE, "samples": SAMPLES, "steps_per_block": steps, "optimizer": "Adam"}
    if keep:
        write(
            "loop_overhead",
            about,
            {"setting": {**setting, "threads": 1}, **figures, "blocks": {"clock": micros, "processor": processor}},
        )


if __name__ == "__main__":
    main()
