"""What ``torchspeed tune`` is worth: against the job as written, against tuning by hand, against trying everything.

    make bench-peers                    # once: .venv-peers with Accelerate and Lightning, at the same torch
    .venv/bin/python bench/tune.py [cnn tutorial regret recipes] [--data ../shared/data] [--budget 2m]

cnn: a 3-convolution network on CIFAR-10, batch 64 and 256: as written, tuned, and by hand (Lightning, Accelerate,
    ``torch.compile``, each with the flags that are best here); share of the bf16 matrix rate where data is free.
tutorial: the same network behind ``Resize((224, 224))``, and with the advice on up-sampling taken.
regret: the tuned plan against the best of all combinations of five levers, and its time against theirs.
recipes: each recipe as written and tuned, and what each lever was worth.

Everybody trains in a process of its own and in interleaved blocks (``tune_blocks.py``); ratios are paired block by
block. Nothing is cached from an earlier run. ``--plan FILE`` takes a plan in place of tuning; ``--quick`` shows in some
minutes that all of it runs, and writes nothing.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torchspeed
from common import RESULTS, provenance, write
from data_prepare import write_cifar10
from loop_overhead import peers_versions
from torchspeed.data.cifar import read_cifar10
from tune_blocks import PEERS, ROOT
from tune_cnn import cnn, tutorial
from tune_grid import recipes, regret
from tune_setting import Setting
from tune_work import save_pictures

PARTS = {"cnn": cnn, "tutorial": tutorial, "regret": regret, "recipes": recipes}


def prepare(folder: Path, data: Path) -> None:
    """CIFAR-10 as torchvision's class reads it, and as arrays; what is there, stays."""
    done = folder / "prepared"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    train, test = read_cifar10(data / "cifar10")
    write_cifar10(folder / "cifar-10-batches-py", train, test)
    save_pictures(folder, train.images, train.labels)
    done.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="all of them by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--budget", help="of each tuning (default 2m)")
    parser.add_argument("--plan", type=Path, help="a plan that is used in place of tuning")
    parser.add_argument("--blocks", type=int, help="interleaved blocks (default 9)")
    parser.add_argument("--seconds", type=float, help="of a block, about (default 1.5)")
    parser.add_argument("--works", nargs="*", default=["cnn_64", "cnn_256", "cnn_256_free"], help="of the part cnn")
    parser.add_argument("--same-flags", action="store_true", help="what was best by hand in an earlier run")
    parser.add_argument("--same-grid", action="store_true", help="what an earlier run of regret measured")
    parser.add_argument("--quick", action="store_true", help="little of everything; nothing is written")
    parser.add_argument("--folder", type=Path, help="where prepared pictures are kept; by default they are not")
    chosen = parser.parse_args()
    budget, blocks, seconds = ("40s", 3, 0.4) if chosen.quick else ("2m", 9, 1.5)

    about = provenance("cpu")
    if PEERS.exists():
        about["versions"] |= peers_versions()
    with tempfile.TemporaryDirectory() as temporary:
        setting = Setting(
            data=chosen.data,
            folder=(chosen.folder or Path(temporary) / "pictures").absolute(),
            caches=Path(temporary) / "caches",
            budget=chosen.budget or budget,
            blocks=chosen.blocks or blocks,
            seconds=chosen.seconds or seconds,
            quick=chosen.quick,
            works=("cnn_64", "cnn_64_free") if chosen.quick else tuple(chosen.works),
            flags=flags_of(earlier()) if chosen.same_flags else {},
            grid=earlier().get("regret", {}) if chosen.same_grid else {},
            plan=None if chosen.plan is None else torchspeed.Plan.read(chosen.plan),
        )
        setting.caches.mkdir()
        prepare(setting.folder, setting.data)
        for name in chosen.parts or PARTS:
            kept = earlier().get(name, {}) if name == "cnn" else {}
            measured = {name: {**kept, **about, **PARTS[name](setting)}}
            if not chosen.quick:
                write("tune", earlier(), measured)


def flags_of(found: dict[str, Any]) -> dict[str, Any]:
    """By work and family, the flags that were best by hand."""
    works = found.get("cnn", {}).items()
    return {
        work: {label: rows[0]["flags"] for label, rows in one["hand_tuning"].items() if rows}
        for work, one in works
        if isinstance(one, dict) and one.get("hand_tuning")
    }


def earlier() -> dict[str, Any]:
    """The parts that were measured before; each tells of which machine and day it is."""
    path = RESULTS / "tune.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
