"""Parts ``regret`` and ``recipes`` of ``tune.py``.

Regret is what the plan of ``torchspeed tune`` lacks of the best plan there is. To know that one, every combination of
five levers is trained in a fresh process of its own. Whoever is best of many by single measurements was lucky too, so
the best few are measured once more, side by side with the tuned plan. Tuning gets a share of the time that the grid
took, so the grid comes first.
"""

import itertools
import time
from statistics import median
from typing import Any

import torchspeed
from common import console, show
from torchspeed.engine.build import build
from torchspeed.engine.resolve import resolve
from torchspeed.errors import NotApplicable, PlanError
from torchspeed.facts import Facts, observe
from torchspeed.lever import AS_WRITTEN, Option
from torchspeed.measurement import ratio
from tune_blocks import JOBS, Contender, Failed, Worker, figures, interleave, running
from tune_cnn import say
from tune_setting import RECIPE_DATA, Setting, show_levers, tuned

GRID: dict[str, tuple[Option, ...]] = {
    "memory_format": (AS_WRITTEN, "channels_last"),
    "precision": (AS_WRITTEN, "bf16"),
    "optimizer_impl": (AS_WRITTEN, "foreach", "fused"),
    "allocator": (AS_WRITTEN, "glibc", "huge-pages"),
    "threads": (AS_WRITTEN, 1),
}
QUICK = ("memory_format", "precision")
WORK = "cnn_64_free"
REGRET, SHARE_OF_TIME = 0.03, 0.15
TO_SPARE = 0.9  # for what a tuning does besides its trials
FINALISTS = 3
GRID_BLOCKS = 3
RECIPES = ("digits", *RECIPE_DATA)


def regret(setting: Setting) -> dict[str, Any]:
    axes = {name: applicable(name, options, setting) for name, options in GRID.items()}
    if setting.quick:
        axes = {name: axes[name] for name in QUICK}
    axes = {name: options for name, options in axes.items() if len(options) > 1}
    plans = [
        torchspeed.Plan.from_mapping(dict(zip(axes, chosen, strict=True)))
        for chosen in itertools.product(*axes.values())
    ]
    began = time.perf_counter()
    rates: dict[torchspeed.Plan, float] = {}
    failed: dict[str, str] = {}
    for row in setting.grid.get("grid", ()):
        rates[torchspeed.Plan.from_mapping(row["plan"])] = row["samples_per_second"]
    for number, candidate in enumerate(plans, 1):
        if candidate in rates:
            continue
        try:
            rates[candidate] = measure(setting, candidate)
        except Failed as reason:
            failed[str(candidate)] = str(reason)
        console.print(f"  {number} of {len(plans)}: {candidate}: {rates.get(candidate, 0):.0f} images/s")
    seconds = setting.grid.get("grid_seconds", time.perf_counter() - began)
    budget = setting.budget if setting.quick else f"{SHARE_OF_TIME * TO_SPARE * seconds:.0f}s"
    plan = tuned(setting, WORK, tuple(axes), budget)
    finalists = sorted(rates, key=lambda candidate: -rates[candidate])[:FINALISTS]
    with running(
        [Contender("tuned", "torchspeed", WORK, plan.plan)]
        + [Contender(str(candidate), "torchspeed", WORK, candidate) for candidate in finalists],
        setting.folder,
        setting.caches,
    ) as workers:
        interleave(list(workers.values()), setting.blocks, setting.seconds)
        ours = workers.pop("tuned")
        best = max(workers.values(), key=lambda worker: median(worker.rates))
        reached = ratio(ours.rates, best.rates)
        final = {label: figures(worker, ours) for label, worker in workers.items()} | {"tuned": figures(ours)}
    lacking = 1 - reached.median
    targets = [{"what": "regret, at most", "reached": lacking, "wanted": REGRET, "met": lacking <= REGRET}]
    if plan.seconds:
        share = plan.seconds / seconds
        targets.append(
            {"what": "tuning ÷ grid, at most", "reached": share, "wanted": SHARE_OF_TIME, "met": share <= SHARE_OF_TIME}
        )
    show(
        f"{WORK}: {len(plans)} plans, {seconds:.0f} s; the best of them against the tuned one, side by side",
        ["plan", "images/s", "÷ tuned"],
        [(label, row["samples_per_second"], row.get("ratio", "")) for label, row in final.items()],
    )
    console.print(f"tuned ({plan.seconds:.0f} s): {plan.plan}\ntuned ÷ best of the grid: {reached}")
    for target in targets:
        say(target)
    return {
        "axes": axes,
        "grid": [{"plan": dict(p.options), "samples_per_second": rate} for p, rate in rates.items()],
        "failed": failed,
        "grid_seconds": seconds,
        "tuning_seconds": plan.seconds,
        "tuning": plan.said,
        "tuned_ratio_to_best": reached,
        "final": final,
        "targets": targets,
    }


def measure(setting: Setting, plan: torchspeed.Plan) -> float:
    """Samples per second of one plan in a fresh process, which is thrown away."""
    worker = Worker(Contender(str(plan), "torchspeed", WORK, plan), setting.folder, setting.caches)
    try:
        return median([worker.block(setting.seconds / 2) for _ in range(GRID_BLOCKS)])
    finally:
        worker.close()


def applicable(name: str, options: tuple[Option, ...], setting: Setting) -> tuple[Option, ...]:
    """Those of ``options`` that this machine and this job admit; why the others are left out is printed."""
    machine = torchspeed.Machine.detect("cpu")
    job = torchspeed.load_job(f"{JOBS}:{WORK}", data=str(setting.folder))
    run = build(job, torchspeed.Plan(), machine)
    facts: Facts = observe(run, job.batch_size, job.loss)
    kept: list[Option] = []
    for option in options:
        try:
            for lever, chosen in resolve(torchspeed.Plan.from_mapping({name: option}), facts, machine):
                lever.check(facts, machine, chosen)
            kept.append(option)
        except (NotApplicable, PlanError) as reason:
            console.print(f"{name}={option} is left out of the grid: {reason}")
    return tuple(kept)


def recipes(setting: Setting) -> dict[str, Any]:
    """Each recipe as written and tuned, side by side, and what its tuning tried."""
    found: dict[str, Any] = {}
    for name in RECIPES[:1] if setting.quick else RECIPES:
        plan = tuned(setting, name)
        contenders = [
            Contender("as written", "torchspeed", name),
            Contender("tuned", "torchspeed", name, plan.plan),
        ]
        with running(contenders, setting.data_of(name), setting.caches) as workers:
            interleave(list(workers.values()), setting.blocks, setting.seconds)
            rows = {label: figures(worker, workers["as written"]) for label, worker in workers.items()}
        found[name] = {"contenders": rows, "tuning_seconds": plan.seconds, "tuning": plan.said}
        console.print(f"{name}: {plan.plan}")
        show_levers(plan.said)
    show(
        "Recipes, samples per second as written and tuned, side by side. Median [quartiles]",
        ["recipe", "as written", "tuned", "speed-up", "tuning, s"],
        [
            (
                name,
                *(f"{row['contenders'][label]['samples_per_second'].median:.4g}" for label in ("as written", "tuned")),
                row["contenders"]["tuned"]["ratio"],
                f"{row['tuning_seconds']:.0f}",
            )
            for name, row in found.items()
        ],
    )
    return found
