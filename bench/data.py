"""Samples per second of six data pipelines: ``DataLoader`` and torchvision, FFCV, kornia, torchspeed, side by side.

    make bench-peers-data               # once: .venv-peers-data with FFCV, kornia and torchvision, at the same torch
    .venv/bin/python bench/data.py [--data ../shared/data] [--only cifar10 tutorial]

The works are in ``data_work.py``. Everybody runs in a process of its own (``data_worker.py``), which lives as long as
its work is measured; blocks are interleaved (A B C … A B C …) and the order turns, so that a machine that slows down
slows all of them, and ratios are paired block by block. The peers have an environment of their own.

What is counted is the second epoch on. The seconds that a contender needs before are told apart: to build it, to its
first batch (compilation is there) and, for torchspeed, which keeps what is worth keeping, of its whole first epoch.

Among the contenders of each work is the memory itself: bytes per second that two threads write and copy. A sample must
at least be read and written, so these give a limit, and the share of it that torchspeed reached. It can be above 1:
what is small enough stays in the caches.

With ``--device cuda`` batches end on the card, torchspeed's and kornia's data lie there, and the limit is the card's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import console, provenance, show, write
from data_prepare import prepare
from data_work import REFERENCE, WORKS, Contender, Work
from torchspeed.measurement import Spread, ratio

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("data_worker.py")
PEERS_CODE = Path(__file__).with_name("data_peers.py")
PEERS = ROOT / ".venv-peers-data" / "bin" / "python"
PACKAGES = ("FFCV", "kornia")
COMPETING = ("torchvision", "ffcv", "numba", "kornia", "kornia_rs", "pillow")
MEMORY = Contender("memory", "memory")

Answer = dict[str, Any]
Answers = dict[str, list[Answer]]


class Worker:
    """One contender's process."""

    def __init__(self, python: str, work: Work, label: str, folder: Path, device: str, seconds: float) -> None:
        self.label = label
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  closed in __exit__
        self.process = subprocess.Popen(
            [python, str(WORKER), work.name, label, str(folder), device, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "numba")},  # so that compilation is seen
            text=True,
        )

    def block(self) -> Answer:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Answer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.label}: the worker ended.\n{self.errors.read()[-4000:]}")
        found: Answer = json.loads(line)
        return found

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # which ends it
        if error[0] is not None:
            self.process.kill()
        self.process.wait()
        self.errors.close()


def measure(work: Work, folder: Path, device: str, blocks: int, seconds: float) -> tuple[dict[str, Answer], Answers]:
    """(what each said of itself, its blocks), by label; who cannot run here has no blocks."""
    about: dict[str, Answer] = {}
    answers: Answers = {}
    with ExitStack() as stack:
        workers = {}
        for contender in (MEMORY, *work.contenders):  # one after the other: the first epochs are timed too
            if contender.package in PACKAGES and not PEERS.exists():
                about[contender.label] = {"unavailable": "no .venv-peers-data; make bench-peers-data"}
                continue
            python = str(PEERS) if contender.package in PACKAGES else sys.executable
            worker = stack.enter_context(Worker(python, work, contender.label, folder, device, seconds))
            about[contender.label] = worker.answer()
            if "unavailable" not in about[contender.label]:
                workers[contender.label] = worker
                answers[contender.label] = []
        versions = {label: said["torch"] for label, said in about.items() if "torch" in said}
        if len(set(versions.values())) > 1:
            raise SystemExit(
                f"all must run the same torch; found {versions}. Make the peers anew: make bench-peers-data"
            )
        order = list(workers)
        for _ in range(blocks):
            for label in order:
                answers[label].append(workers[label].block())
            order.append(order.pop(0))
    return about, answers


def report(work: Work, folder: Path, about: dict[str, Answer], answers: Answers) -> dict[str, Any]:
    """Print one work's table; what is kept of it."""
    memory = answers.pop("memory")
    rates = {label: [answer["samples_per_second"] for answer in found] for label, found in answers.items()}
    ours = [contender.label for contender in work.contenders if contender.ours and contender.label in rates]
    ratios = {
        label: {own: ratio(rates[own], values) for own in ours if own != label} for label, values in rates.items()
    }
    limits = {
        contender.label: [limit(work, contender, folder, answer) for answer in memory]
        for contender in work.contenders
        if contender.label in rates
    }
    shares = {label: ratio(rates[label], limits[label]) for label in rates}
    rows = []
    for label, values in rates.items():
        said = about[label]
        before = said["build_seconds"] + (said["first_epoch_seconds"] or said["first_batch_seconds"])
        against = [ratios[label].get(own, "") for own in ours]
        rows.append((label, Spread.of(values), *against, f"{shares[label].median:.3f}", f"{before:.1f}"))
    show(
        f"{work.title}; batch {work.batch_size}. Median [quartiles]",
        ["loader", "samples/s", *(f"{own} ÷ it" for own in ours), "of the limit", "s before"],
        rows,
    )
    for label, said in about.items():
        if "unavailable" in said:
            console.print(f"{label}: left out, {said['unavailable']}")
    return {
        "title": work.title,
        "batch_size": work.batch_size,
        "samples_per_second": {label: Spread.of(values) for label, values in rates.items()},
        "torchspeed_ratio_to": ratios,
        "bytes_per_second": {kind: Spread.of([answer[kind] for answer in memory]) for kind in ("write", "copy")},
        "limit_samples_per_second": {label: Spread.of(values) for label, values in limits.items()},
        "share_of_limit": shares,
        "targets": targets(work, ratios),
        "contenders": about,
        "blocks": rates,
    }


def targets(work: Work, ratios: dict[str, dict[str, Spread]]) -> list[dict[str, Any]]:
    """Of what was measured, what was wanted and what was reached, printed too."""
    found = []
    for (own, other), wanted in work.targets.items():
        if own in ratios.get(other, {}):
            reached = ratios[other][own].median
            found.append({"loader": own, "than": other, "wanted": wanted, "reached": reached, "met": reached >= wanted})
            verdict = "met" if reached >= wanted else "missed"
            console.print(f"{own} ÷ {other}: {reached:.3g}, at least {wanted:g} wanted: {verdict}")
    return found


def limit(work: Work, contender: Contender, folder: Path, memory: Answer) -> float:
    """Samples per second at which memory could read and write them: as much as is read is copied, the rest written."""
    read, written = work.read(folder, contender), float(work.written)
    seconds: float = min(read, written) / memory["copy"] + abs(written - read) / memory["write"]
    return 1 / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--only", nargs="*", choices=[work.name for work in WORKS], help="nothing is written then")
    parser.add_argument("--blocks", type=int, default=7, help="interleaved blocks per work (default 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block, about (default 1)")
    parser.add_argument("--folder", type=Path, help="where prepared data are kept; by default they are not")
    chosen = parser.parse_args()

    about = provenance(chosen.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, chosen.data)
        versions = peers_versions()
        about["versions"] |= versions
        writing = write_betons(folder, versions)
        figures = {}
        for work in WORKS:
            if not chosen.only or work.name in chosen.only:
                found = measure(work, folder, chosen.device, chosen.blocks, chosen.seconds)
                figures[work.name] = report(work, folder, *found)
    setting = {"block_seconds": chosen.seconds, "blocks": chosen.blocks, "ffcv_writing_seconds": writing}
    if not chosen.only:
        name = "data" if chosen.device == "cpu" else f"data_{chosen.device}"
        write(name, about, {"reference": REFERENCE, "setting": setting, "works": figures})


def peers_versions() -> dict[str, str]:
    """Of what competes, as far as it is there."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    if not PEERS.exists():
        return {}
    found = subprocess.run([PEERS, "-c", code], capture_output=True, text=True, check=True)
    there = json.loads(found.stdout)
    versions = {f"{name} (peers)": there[name] for name in COMPETING if name in there}
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return versions


def write_betons(folder: Path, versions: dict[str, str]) -> dict[str, float]:
    """Seconds that FFCV took to write its own files, where it is there."""
    if "ffcv (peers)" not in versions:
        return {}
    kept = folder / "betons.json"
    if not kept.exists():
        found = subprocess.run([PEERS, PEERS_CODE, folder], capture_output=True, text=True, check=True)
        kept.write_text(found.stdout.splitlines()[-1], encoding="utf-8")
    seconds = dict(json.loads(kept.read_text(encoding="utf-8")))
    console.print("FFCV's files: " + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))
    return seconds


if __name__ == "__main__":
    main()
