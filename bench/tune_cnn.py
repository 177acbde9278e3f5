"""Parts ``cnn`` and ``tutorial`` of ``tune.py``: as written, tuned by torchspeed, tuned by hand.

Who tunes by hand tries, too: every variant of a family is measured first, here, and the best one goes on, with two
loader workers and with a fused optimizer if that is quicker still. Compilation is not in their rates; it is told.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from common import console, show
from torchspeed import Machine
from torchspeed.measure.limits import measured_limits
from torchspeed.measurement import Spread, ratio
from tune_blocks import PEERS, Contender, Worker, figures, interleave, running
from tune_setting import Setting, Tuned, show_levers, tuned
from tune_work import WORKS, flops_per_picture

SPEEDUP, AGAINST_PEERS, SHARE_OF_MATRIX = 2.8, 1.1, 0.75
AS_WRITTEN, BARE, TUNED = "as written", "bare loop", "tuned"

Flags = dict[str, Any]
Trials = dict[str, list[dict[str, Any]]]
_LAYOUTS_AND_COMPILE: list[Flags] = [
    {"bf16": True, "channels_last": layout, "compile": mode} for layout in (True, False) for mode in ("", "default")
]
FAMILIES: dict[str, tuple[str, list[Flags]]] = {
    "Lightning bf16-mixed": ("lightning", _LAYOUTS_AND_COMPILE),
    "Accelerate bf16": ("accelerate", _LAYOUTS_AND_COMPILE),
    "torch.compile": (
        "plain",
        [{"bf16": bf16, "compile": mode} for bf16 in (True, False) for mode in ("default", "max-autotune")],
    ),
}
HABITS: list[Flags] = [{"channels_last": True}, {"workers": 2}, {"fused": True}]
TRIAL_BLOCKS, AGAIN = 3, 2


def cnn(setting: Setting) -> dict[str, Any]:
    """Batch 64 and 256 with the dataset that people write; then batch 256 with data that is free."""
    found: dict[str, Any] = {}
    trials: Trials | None = None
    chosen: dict[str, Flags] = {}
    for name in setting.works:
        plan = tuned(setting, name.removesuffix("_free"))
        if WORKS[name].free:
            inherited = {label: {**flags, "workers": 0} for label, flags in chosen.items()}
            found[name] = side_by_side(setting, name, plan, inherited, limit=True)
            continue
        if name in setting.flags:
            chosen = dict(setting.flags[name])
        else:
            chosen, trials = by_hand(setting, name, trials)
        found[name] = {**side_by_side(setting, name, plan, chosen), "flags": chosen, "hand_tuning": trials}
    return found


def by_hand(setting: Setting, name: str, before: Trials | None = None) -> tuple[dict[str, Flags], Trials]:
    """(the best flags of each family, all that was tried, the quickest first).

    ``before``: trials at another batch size; then only the best few of those are tried again.
    """
    chosen: dict[str, Flags] = {}
    trials: Trials = {}
    for label, (by, variants) in FAMILIES.items():
        if by != "plain" and not PEERS.exists():
            console.print(f"{label}: left out, there is no .venv-peers; make bench-peers")
            continue
        console.print(f"{name}, {label}, by hand")
        if before is not None:
            tried = measured(setting, name, by, [row["flags"] for row in before.get(label, [])[:AGAIN]])
        else:
            tried = with_habits(setting, name, by, variants[:1] if setting.quick else variants)
        trials[label] = sorted(tried, key=lambda row: -median(row["blocks"]))
        if tried:
            chosen[label] = trials[label][0]["flags"]
            console.print(f"{name}, {label}: {_said(chosen[label])}")
    return chosen, trials


def with_habits(setting: Setting, name: str, by: str, variants: Sequence[Flags]) -> list[dict[str, Any]]:
    """Each variant; and the best of them with each habit, and with all habits that helped it."""
    tried = measured(setting, name, by, variants)
    if setting.quick or not tried:
        return tried
    flags = max(tried, key=lambda row: median(row["blocks"]))["flags"]
    habits = [{**flags, **habit} for habit in HABITS if not flags.items() >= habit.items()]
    alone, *others = measured(setting, name, by, [flags, *habits])
    everything = dict(flags)
    for row in others:
        if ratio(row["blocks"], alone["blocks"]).median > 1:
            everything |= row["flags"]
    together = [] if everything in [alone["flags"], *habits] else measured(setting, name, by, [everything])
    return [row for row in tried if row["flags"] != flags] + [alone, *others, *together]


def measured(setting: Setting, name: str, by: str, variants: Sequence[Flags]) -> list[dict[str, Any]]:
    """A few interleaved blocks of each; what does not run here does not compete."""
    contenders = [Contender(f"{by}: {_said(flags)}", by, name, flags=flags) for flags in variants]
    with running(contenders, setting.folder, setting.caches, may_fail=True) as workers:
        interleave(list(workers.values()), TRIAL_BLOCKS, setting.seconds / 2)
        return [figures(worker) for worker in workers.values()]


def side_by_side(
    setting: Setting, name: str, plan: Tuned, chosen: dict[str, Flags], limit: bool = False
) -> dict[str, Any]:
    """Interleaved blocks of all; ``limit``: of matrix products in bf16 too."""
    contenders = [
        Contender(AS_WRITTEN, "torchspeed", name),
        Contender(BARE, "plain", name, flags={"torchvision": True}),
        Contender(TUNED, "torchspeed", name, plan.plan),
        *(Contender(label, FAMILIES[label][0], name, flags=flags) for label, flags in chosen.items()),
        *([Contender("matrix", "matrix", name)] if limit else []),
    ]
    with running(contenders, setting.folder, setting.caches) as workers:
        interleave(list(workers.values()), setting.blocks, setting.seconds)
        matrix = workers.pop("matrix", None)
        reference, ours = workers[AS_WRITTEN], workers[TUNED]
        kept = {label: figures(worker, reference) for label, worker in workers.items()}
        against = {label: ratio(ours.rates, workers[label].rates) for label in chosen}
        found: dict[str, Any] = {"contenders": kept, "tuned_ratio_to": against, "tuning_seconds": plan.seconds}
        found |= {"tuning": plan.said, "targets": _targets(name, kept[TUNED]["ratio"], against)}
        if matrix is not None:
            share = _share(name, ours, matrix)
            found["limit"] = share
            found["targets"].append(
                at_least(f"{name}, share of the bf16 matrix rate", share["share"].median, SHARE_OF_MATRIX)
            )
    rows = [
        (label, row["samples_per_second"], row["ratio"], against.get(label, ""), f"{row['start_seconds']:.1f}")
        for label, row in kept.items()
    ]
    title = f"{name}: batch {WORKS[name].batch_size}. Median [quartiles]; tuning took {plan.seconds:.0f} s"
    show(title, ["loop", "images/s", f"÷ {AS_WRITTEN}", "tuned ÷ it", "warm, s"], rows)
    console.print(f"tuned: {plan.plan}")
    show_levers(plan.said)
    for target in found["targets"]:
        say(target)
    return found


def say(target: dict[str, Any]) -> None:
    verdict = "met" if target["met"] else "missed"
    console.print(f"{target['what']}: {target['reached']:.3g}, {target['wanted']:g} wanted: {verdict}")


def at_least(what: str, reached: float, wanted: float) -> dict[str, Any]:
    return {"what": what, "reached": reached, "wanted": wanted, "met": reached >= wanted}


def _targets(name: str, speedup: Spread, against: dict[str, Spread]) -> list[dict[str, Any]]:
    found = [at_least(f"{name}, tuned ÷ {AS_WRITTEN}", speedup.median, SPEEDUP)]
    if against:
        best = min(against, key=lambda label: against[label].median)
        found.append(at_least(f"{name}, tuned ÷ the best by hand ({best})", against[best].median, AGAINST_PEERS))
    return found


def _share(name: str, ours: Worker, matrix: Worker) -> dict[str, Any]:
    """What of the matrix rate the tuned training reached: block by block, and of the one that ``torchspeed`` knows."""
    flops = flops_per_picture(WORKS[name])
    rates = [flops * rate for rate in ours.rates]
    limits = [matrix.about["flops_per_step"] * rate for rate in matrix.rates]
    share = ratio(rates, limits)
    known = measured_limits(Machine.detect("cpu"), fresh=True).rate(torch.bfloat16)
    console.print(f"{name}: {Spread.of(rates)} FLOP/s of {Spread.of(limits)} in bf16 products: {share}")
    console.print(f"  torchspeed measured a limit of {known:.4g}: {median(rates) / known:.3f}")
    return {
        "flops_per_image": flops,
        "flops_per_second": Spread.of(rates),
        "matrix_flops_per_second": Spread.of(limits),
        "matrix_side": matrix.about["side"],
        "torchspeed_limit_flops_per_second": known,
        "share_of_torchspeed_limit": median(rates) / known,
        "share": share,
    }


def tutorial(setting: Setting) -> dict[str, Any]:
    """Resized to 224×224 as written and tuned; and at the 32×32 that the pictures have, as written and tuned."""
    plan, small = tuned(setting, "tutorial"), tuned(setting, "cnn_64")
    contenders = [
        Contender(AS_WRITTEN, "torchspeed", "tutorial"),
        Contender("tuned, same pixels", "torchspeed", "tutorial", plan.plan),
        Contender("advice taken", "torchspeed", "cnn_64"),
        Contender("advice taken, tuned", "torchspeed", "cnn_64", small.plan),
    ]
    with running(contenders, setting.folder, setting.caches) as workers:
        interleave(list(workers.values()), max(3, setting.blocks // 2), setting.seconds)
        kept = {label: figures(worker, workers[AS_WRITTEN]) for label, worker in workers.items()}
    rows = [
        (label, row["samples_per_second"], row["ratio"], f"{row['start_seconds']:.1f}") for label, row in kept.items()
    ]
    title = f"Resize((224, 224)), batch 64. Median [quartiles]; tuning took {plan.seconds:.0f} s"
    show(title, ["loop", "images/s", f"÷ {AS_WRITTEN}", "warm, s"], rows)
    console.print(f"tuned, same pixels: {plan.plan}\nadvice taken, tuned: {small.plan}")
    show_levers(plan.said)
    return {"contenders": kept, "tuning_seconds": plan.seconds, "tuning": plan.said}


def _said(flags: Flags) -> str:
    """``bf16, compile=default``."""
    shown = [name if value is True else f"{name}={value}" for name, value in flags.items() if value]
    return ", ".join(shown) or "no flags"
