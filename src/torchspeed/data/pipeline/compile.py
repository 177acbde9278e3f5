"""``compile_dataset``: read a dataset, plan what is done where, and prove the plan on some of its samples.

The plan cuts the user's chain of transforms in two. What is deterministic at its beginning is done once, by the user's
own code, and kept; where the cut falls is a matter of bytes, as keeping costs memory and reading it back costs
bandwidth: it falls where an image is smallest. What follows is lowered to kernels, if all of it is known here; if not,
it runs as it is written, from the kept image on.

Nothing is taken on trust. What is kept was first computed again under other states of the generators; what is lowered
was first compared, on sampled items and in several epochs, with what the user's code gives for the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from torchspeed.data.batched import BatchedDataset
from torchspeed.data.loader import OrderedLoader
from torchspeed.data.pipeline.build import Keep, build, lies_ready
from torchspeed.data.pipeline.compiled import Compiled, Continued, Lowered
from torchspeed.data.pipeline.determinism import varies
from torchspeed.data.pipeline.device_store import why_not_on_device
from torchspeed.data.pipeline.held import levels_of
from torchspeed.data.pipeline.keep import keep_samples
from torchspeed.data.pipeline.operation import AsWritten, Operation, Unreadable
from torchspeed.data.pipeline.parts import Parts
from torchspeed.data.pipeline.program import Program
from torchspeed.data.pipeline.prove import prove
from torchspeed.data.pipeline.rest import Rest
from torchspeed.data.pipeline.settings import Settings
from torchspeed.data.pipeline.table import continued_rows, lowered_rows
from torchspeed.data.sources.concatenated import concatenated
from torchspeed.data.sources.read import read
from torchspeed.data.sources.source import Holds, Opaque, Source
from torchspeed.data.transforms.chain import read_chain
from torchspeed.errors import DataError, NotApplicable
from torchspeed.machine import free_memory
from torchspeed.run import Loader

_SAMPLED = 8  # items that a plan is made from and proved on


def compile_dataset(dataset: Dataset[Any], settings: Settings) -> Compiled:
    """A dataset that gives the same samples in whole batches, faster.

    Raises ``NotApplicable`` with the sentence why it stays as written.
    """
    if isinstance(dataset, BatchedDataset):
        raise NotApplicable(f"{type(dataset).__name__} gives whole batches by itself")
    try:
        whole = concatenated(dataset)
        alone = len(whole.datasets) == 1
        plans = [_Planner(read(one), settings, alone).plan() for one in whole.datasets]
    except (Opaque, Unreadable) as reason:
        return keep_samples(dataset, settings, str(reason))
    return plans[0] if len(plans) == 1 else Parts(plans, whole.part, whole.place)


def compile_loader(loader: Loader, **changes: Any) -> None:
    """From its next epoch on, ``loader`` loads from a compiled pipeline: with its settings so far, and ``changes``.

    Raises ``NotApplicable`` with the sentence why the data stay as written.
    """
    loader.dataset = compiled_for(loader, **changes)  # type: ignore[attr-defined]


def compiled_for(loader: Loader, **changes: Any) -> Compiled:
    """What ``compile_loader`` gives ``loader`` to load from."""
    if not isinstance(loader, OrderedLoader):
        raise NotApplicable(f"the batches of a {type(loader).__name__} are made elsewhere")
    if loader.collate is not None:
        raise NotApplicable("a collate function of your own is given single samples")
    dataset, settings = loader.dataset, Settings()
    if isinstance(dataset, Compiled) and dataset.origin is not None:
        dataset, settings = dataset.origin
    settings = replace(settings, **changes)
    if loader.tolerate and settings.placement == "auto":
        settings = replace(settings, placement="none")  # a sample that cannot be read shows itself when it is wanted
    try:
        compiled = compile_dataset(dataset, settings)
    except DataError as error:
        if not loader.tolerate:
            raise
        raise NotApplicable(f"one of the samples that were looked at cannot be read ({error})") from error
    compiled.origin = dataset, settings
    return compiled


def transforms_of(dataset: Any) -> tuple[int, ...]:
    """Identities of what ``dataset`` and those inside it call, so that another transform put in its place is seen."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    mine = [id(value) for value in getattr(dataset, "__dict__", {}).values() if callable(value)]
    return (*mine, *(part for one in inner if one is not None for part in transforms_of(one)))


@dataclass(frozen=True)
class _Stage:
    """The sampled images between two steps of the chain: where they could be kept."""

    levels: list[NDArray[np.uint8]]
    holds: Holds

    @property
    def mean_bytes(self) -> float:
        return sum(image.nbytes for image in self.levels) / len(self.levels)


@final
class _Planner:
    """One source on its way to a plan. ``alone``: its batches are not put together with those of others."""

    def __init__(self, source: Source, settings: Settings, alone: bool) -> None:
        self.source, self.settings, self.alone = source, settings, alone
        self.items = np.unique(np.linspace(0, len(source) - 1, _SAMPLED).astype(np.int64))
        if source.mode is None:
            raise Unreadable("its images are not all 8-bit levels of one mode (L or RGB)")
        looked_at = [source.raw(item) for item in self.items.tolist()]
        Rest([rest for _, rest in looked_at])  # raises where samples hold what cannot be put into a batch
        self.raws = [image for image, _ in looked_at]
        channels = {levels_of(raw).shape[2] for raw in self.raws}
        if len(channels) > 1:
            raise Unreadable("some images are grey and some are coloured")
        self.channels = channels.pop()
        self.steps = read_chain(source.transform, source.holds, self.channels)

    def plan(self) -> Compiled:
        stages = self._stages()
        unknown = [k + 1 for k in range(max(stages)) if isinstance(self.steps[k], AsWritten)]
        try:
            keep = self._keep({k: stage for k, stage in stages.items() if k >= max(unknown, default=0)})
            stage = stages[keep.cut]
            channels = stage.levels[0].shape[2]
            rest = read_chain([step.transform for step in self.steps[keep.cut :]], stage.holds, channels)
            program = Program(rest, stage.holds, channels, self.settings.dtype)
            prove(program, self.source.transform, self.raws, stage.levels, self.items, self.settings.dtype)
            keep = self._on_device(keep, stage, program) or keep
        except Unreadable as reason:
            return self._continued(stages, str(reason))
        return Lowered(
            len(self.source),
            lowered_rows(self.source, self.steps, keep, program, self.settings),
            lambda: build(self.source, keep),
            program,
            self.settings,
            on_device=keep.placement == "device",
        )

    def _on_device(self, keep: Keep, stage: _Stage, program: Program) -> Keep | None:
        """What is to be kept, in the memory of the device, if that is asked for or possible."""
        if self.settings.placement not in ("auto", "device") or self.settings.decode == "scaled":
            return None
        device, total_bytes = self.settings.device, int(stage.mean_bytes * len(self.source))
        sizes, in_ram = {image.shape for image in stage.levels}, not keep.steps and self.source.levels is not None
        why = why_not_on_device(device, sizes, total_bytes, self.settings.budget_bytes, in_ram)
        if why is None and not self.alone:
            why = "batches of several datasets are put together in RAM"
        if why is None:
            try:
                prove(program, self.source.transform, self.raws, stage.levels, self.items, self.settings.dtype, device)
            except Unreadable as reason:
                why = f"{reason} (on {device})"
        if why is None:
            return replace(keep, placement="device", total_bytes=total_bytes)
        if self.settings.placement == "device":
            raise NotApplicable(f"placement=device: {why}")
        return None

    def _continued(self, stages: dict[int, _Stage], why: str) -> Compiled:
        """Kept where it can be, and as written from there."""
        if self.settings.placement == "device":
            raise NotApplicable(f"placement=device is for chains that are compiled altogether: {why}")
        try:
            keep = self._keep(stages)
        except Unreadable as reason:
            raise NotApplicable(f"{why}; and {reason}") from reason
        if keep.placement == "none" or (keep.cut == 0 and lies_ready(self.source)):
            raise NotApplicable(why)
        rows = continued_rows(self.source, self.steps, keep, why)
        steps = self.steps[keep.cut :]
        return Continued(len(self.source), rows, lambda: build(self.source, keep), steps, stages[keep.cut].holds)

    def _stages(self) -> dict[int, _Stage]:
        """The sampled images before the first step, after the first, …, as long as the steps are deterministic."""
        images = list(self.raws)
        stages = {0: _stage(images)}
        for number, step in enumerate(self.steps):
            maybe = isinstance(step, AsWritten) or (isinstance(step, Operation) and not step.random)
            if not maybe or any(varies(partial(step.transform, image)) for image in images):
                break
            images = [step.transform(image) for image in images]
            try:
                stages[number + 1] = _stage(images)
            except Unreadable:  # floats, say: four times as large
                break
        return stages

    def _keep(self, stages: dict[int, _Stage]) -> Keep:
        """Where an image is smallest, and the later the better; at the beginning, if nothing is kept."""
        if not stages:
            raise Unreadable("what is not known here gives no image of bytes that could be kept")
        cut = min(stages, key=lambda k: (stages[k].mean_bytes, -k))
        in_place = cut == 0 and lies_ready(self.source)
        total_bytes = 0 if in_place else int(stages[cut].mean_bytes * len(self.source))
        placement, budget = self.settings.placement, self.settings.budget_bytes
        if self.settings.decode == "scaled":
            if self.source.encoded is None:
                raise NotApplicable(f"decode=scaled is for JPEG files; this is {self.source.kind}")
            if placement not in ("auto", "none"):
                raise NotApplicable(f"decode=scaled decodes each image anew and excludes placement={placement}")
            placement = "none"
        if placement == "auto":
            fits = total_bytes <= (free_memory() // 2 if budget is None else budget)
            placement = "ram" if fits else "mapped" if self.settings.cache_dir else "none"
        if placement == "none":
            if 0 not in stages:
                raise Unreadable("what is not known here would have to be kept, and nothing is to be kept")
            cut, total_bytes = 0, 0
        if placement == "mapped":
            self._check_mapping()
        return Keep(cut, placement, self.steps[:cut], total_bytes, self.settings)

    def _check_mapping(self) -> None:
        if self.settings.cache_dir is None:
            raise NotApplicable("placement=mapped needs a folder: give cache_dir=")
        if self.source.identity() is None or self.source.rest(0) is None:
            raise NotApplicable(
                f"placement=mapped: whether the data behind {self.source.kind} change cannot be told at the next start"
            )


def _stage(images: Sequence[Any]) -> _Stage:
    holds: Holds = "uint8 tensor" if isinstance(images[0], Tensor) else "pil"
    return _Stage([levels_of(image) for image in images], "uint8 array" if isinstance(images[0], np.ndarray) else holds)
