"""Make what a plan wants kept: the images after the steps before the cut, in memory or in a mapped file."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from torchspeed.data.cache import RaggedImages, RaggedWriter, Writer, open_or_build
from torchspeed.data.pipeline.operation import Step
from torchspeed.data.pipeline.rest import Rest
from torchspeed.data.pipeline.settings import Placement, Settings
from torchspeed.data.pipeline.stores import (
    Appendable,
    ArrayStore,
    EncodedStore,
    LoadedStore,
    MemoryImages,
    Store,
    decoded,
    prepared,
    store_of,
)
from torchspeed.data.sources.source import Source
from torchspeed.errors import DataError
from torchspeed.fingerprint import fingerprint
from torchspeed.machine import usable_cores, versions


@dataclass(frozen=True)
class Keep:
    """cut: how many steps come before. total_bytes: of what is kept, as estimated from samples; 0 for nothing."""

    cut: int
    placement: Placement
    steps: Sequence[Step]
    total_bytes: int
    settings: Settings


def build(source: Source, keep: Keep) -> tuple[Store, Rest | None]:
    """The store, and what samples hold beside the image, or None where the store gives it with each image."""
    rest = _known_rest(source)
    if keep.placement == "none" or keep.total_bytes == 0:
        if source.levels is not None:
            return ArrayStore(source.levels, source.rows), rest or _rest_by_loading(source)
        if source.encoded is not None and rest is not None:
            return EncodedStore(source), rest
        return LoadedStore(source), None
    if keep.placement == "mapped":
        assert rest is not None
        return _mapped(source, keep), rest
    if not keep.steps and source.levels is not None:
        return ArrayStore(np.ascontiguousarray(source.levels), source.rows), rest or _rest_by_loading(source)
    memory = MemoryImages(keep.total_bytes)
    rests = _fill(memory, source, keep)
    return store_of(memory.done()), rest or Rest(rests)


def lies_ready(source: Source) -> bool:
    """Whether the raw images lie in memory in the order of their pixels (CIFAR10 of torchvision keeps planes)."""
    return source.levels is not None and source.levels.flags.c_contiguous


def _rest_by_loading(source: Source) -> Rest:
    return Rest([source.raw(i)[1] for i in range(len(source))])


def _known_rest(source: Source) -> Rest | None:
    if source.rest(0) is None:
        return None
    return Rest([source.rest(i) for i in range(len(source))])


def _fill(images: Appendable, source: Source, keep: Keep) -> list[Any]:
    """Append every image; returns the rests of the samples, where they come with the images."""
    rests = []
    if not keep.steps and source.encoded is not None and source.rest(0) is not None:
        for levels in decoded(source, usable_cores()):
            images.append(levels)
        return []
    for levels, rest in prepared(source, keep.steps, usable_cores()):
        images.append(levels)
        rests.append(rest)
    return rests


def _mapped(source: Source, keep: Keep) -> Store:
    folder, identity = keep.settings.cache_dir, source.identity()
    assert folder is not None
    assert identity is not None

    def fill(writer: Writer) -> None:
        images = RaggedWriter(writer, "images")
        _fill(images, source, keep)
        images.close()

    code = [step.transform for step in keep.steps]
    content = fingerprint([identity, code, versions(), versions_of("pillow", "torchvision", "simplejpeg"), keep.cut])
    about = f"{len(source)} images, {source.kind}; " + ", ".join(step.label for step in keep.steps)
    cache = open_or_build(folder, "images", content, fill, about=about, budget_bytes=keep.settings.budget_bytes)
    images = RaggedImages(cache.arrays, "images")
    if len(images) != len(source):
        raise DataError(f"{folder}: holds {len(images)} images of {len(source)}; remove it, and it is built again")
    return store_of(images)


def versions_of(*packages: str) -> list[tuple[str, str]]:
    """(name, version) of what decodes and resizes, or "none": other releases give other pixels."""
    return [(package, _version(package)) for package in packages]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
