"""``torchspeed.DataLoader`` in somebody's own loop."""

from typing import Any

import pytest
import torch
from torch.utils.data import SubsetRandomSampler

import torchspeed
from torchspeed.errors import DataError, DeviceError, JobError
from vision import MEAN, STD, Pictures, pictures, v1, v2

IMAGES = pictures(50)


def dataset() -> Pictures:
    chain = [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    return Pictures(IMAGES, v1.Compose(chain))


def loader(**options: Any) -> torchspeed.DataLoader:
    return torchspeed.DataLoader(dataset(), **{"batch_size": 8, "shuffle": True, "seed": 4, **options})


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_it_is_iterated_as_pytorchs() -> None:
    batches = list(loader())
    assert len(batches) == len(loader()) == 7
    images, labels = batches[0]
    assert images.shape == (8, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert len(loader(drop_last=True)) == 6


def test_every_pass_is_another_epoch_and_the_same_for_any_number_of_workers() -> None:
    one, other = loader(num_workers=0), loader(num_workers=3)
    first, second = list(one), list(one)
    assert not equal(first, second)
    assert equal(first, list(other))
    assert equal(second, list(other))


@pytest.mark.parametrize("taken", [0, 3, 7])
def test_a_state_goes_on_in_mid_epoch(taken: int) -> None:
    whole = loader()
    expected = list(whole) + list(whole)
    first = loader()
    iterator = iter(first)
    given = [next(iterator) for _ in range(taken)]
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    rest = list(second) + (list(second) if 0 < taken < 7 or taken == 0 else [])
    assert equal(given + rest, expected[: len(given + rest)])
    assert len(given + rest) == 14


def test_the_state_of_another_loader_is_refused() -> None:
    with pytest.raises(JobError, match="batch_size=8; this one has batch_size=4"):
        loader(batch_size=4).load_state_dict(loader().state_dict())


def test_a_pass_that_was_broken_off_is_followed_by_the_next_epoch() -> None:
    reference = loader()
    list(reference)
    broken = loader()
    next(iter(broken))
    assert equal(list(broken), list(reference))


def test_ranks_share_the_batches_of_one() -> None:
    whole = list(loader(drop_last=True))
    shares = [list(loader(drop_last=True, rank=rank, world_size=2)) for rank in range(2)]
    joined = [[torch.cat([a, b]) for a, b in zip(x, y, strict=True)] for x, y in zip(*shares, strict=True)]
    assert equal(joined, whole)


def test_a_collate_function_is_honoured_and_said() -> None:
    with_collate = loader(collate_fn=lambda samples: [label for _, label in samples])
    assert sorted(label for batch in with_collate for label in batch) == sorted(i % 10 for i in range(50))
    assert "as written" in repr(with_collate)
    assert "collate" in repr(with_collate)


def test_a_sampler_is_the_order() -> None:
    labels = torch.cat([labels for _, labels in loader(shuffle=False, sampler=SubsetRandomSampler([1, 12, 23]))])
    assert sorted(labels.tolist()) == [1, 2, 3]
    with pytest.raises(JobError, match="sampler and shuffle"):
        loader(sampler=SubsetRandomSampler([1]))


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
def test_mixing_follows_from_seed_epoch_and_batch(kind: Any) -> None:
    mixed = list(loader(batch_transform=kind(num_classes=10)))
    torch.manual_seed(77)
    again = list(loader(batch_transform=kind(num_classes=10), num_workers=0))
    assert mixed[0][1].shape == (8, 10)
    assert equal(mixed, again)
    plain = list(loader())
    assert not torch.equal(mixed[0][0], plain[0][0])


def test_the_plan_is_shown() -> None:
    shown = repr(loader())
    for words in ("50 samples", "RandomCrop((32, 32), padding=4)", "batched kernel", "RAM, as it lies", "ToTensor()"):
        assert words in shown


def test_batches_that_are_kept_are_not_overwritten() -> None:
    kept = loader()
    batches = [images for images, _ in kept]
    copies = [images.clone() for images in batches]
    for _ in range(3):
        list(kept)
    assert all(torch.equal(a, b) for a, b in zip(batches, copies, strict=True))


def test_another_transform_is_noticed_at_the_next_pass() -> None:
    data = dataset()
    changing = torchspeed.DataLoader(data, batch_size=50)
    list(changing)
    data.transform = v1.ToTensor()
    assert next(iter(changing))[0].max() <= 1


@pytest.mark.parametrize("own", [False, True])
def test_dtype_and_layout_are_those_asked_for_compiled_or_not(own: bool) -> None:
    wanted: dict[str, Any] = {"dtype": torch.bfloat16, "memory_format": torch.channels_last, "compile": not own}
    images, labels = next(iter(loader(**wanted)))
    assert images.dtype == torch.bfloat16
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert torch.equal(images, next(iter(loader()))[0].to(torch.bfloat16))


def test_usual_arguments_of_pytorchs_are_taken() -> None:
    usual = loader(pin_memory=True, persistent_workers=True, prefetch_factor=None, timeout=5, num_workers=2)
    assert equal(list(usual), list(loader()))
    generator = torch.Generator().manual_seed(4)
    assert equal(list(loader(seed=0, generator=generator)), list(loader()))


class Torn(Pictures):
    """Three samples cannot be read, the first of them among those that are looked at."""

    def __getitem__(self, index: int) -> Any:
        if index in (0, 20, 33):
            raise OSError(f"torn at {index}")
        return super().__getitem__(index)


def test_samples_that_cannot_be_read_are_set_aside_whichever_they_are() -> None:
    tolerant = torchspeed.DataLoader(Torn(IMAGES, dataset().transform), batch_size=10, max_bad_samples=3)
    assert [len(labels) for _, labels in tolerant] == [9, 10, 9, 9, 10]
    assert sorted(tolerant.set_aside) == [0, 20, 33]
    with pytest.raises(DataError, match="torn at 0"):
        torchspeed.DataLoader(Torn(IMAGES, dataset().transform), batch_size=10)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "batch_size=0"),
    ({"num_workers": -1}, "num_workers=-1"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"placement": "nowhere"}, "placement='nowhere'"),
    ({"decode": "fast"}, "decode='fast'"),
    ({"dtype": torch.int64}, "dtype=torch.int64"),
    ({"rank": 2, "world_size": 2}, "rank=2, world_size=2"),
    ({"max_bad_samples": -1}, "max_bad_samples=-1"),
    ({"shuffle": False, "sampler": iter([1])}, "no __len__"),
    ({"batch_sampler": [[1]]}, "batch_sampler"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[words for _, words in BAD])
def test_a_wrong_argument_is_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        loader(**options)


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(DeviceError, match="nonsense"):
        loader(device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="cuda"):
            loader(device="cuda")


def test_what_was_asked_for_by_name_and_is_not_done_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="cache_dir"):
        loader(placement="mapped")


def test_bad_input_is_said() -> None:
    with pytest.raises(JobError, match="__getitem__"):
        torchspeed.DataLoader(iter([1]))
    with pytest.raises(DataError, match="empty"):
        torchspeed.DataLoader(Pictures(IMAGES[:0], None))
    with pytest.raises(DataError, match="no batch"):
        loader(batch_size=64, drop_last=True)
