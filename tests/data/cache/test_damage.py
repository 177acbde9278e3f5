"""What lies in the cache is not believed without a look."""

import json
import os
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cached import KEY, MIB, filled, join, opened, rebuilt, run, value_of
from torchspeed.data.cache import entry_path, layout, open_or_build, reader
from torchspeed.errors import DataError, StorageError


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 1 - 1e-7, 1.5])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "cache.json"])
def test_a_truncated_or_longer_file_is_found_when_it_is_opened(root: Path, entry: Path, name: str, keep: float) -> None:
    path = entry / name
    os.truncate(path, int(path.stat().st_size * keep))
    rebuilt(root, name, check_bytes=0)


def test_without_the_look_at_the_size_a_longer_file_would_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the array ends with a MiB, so no digest covers what was added."""
    entry = opened(root, lambda writer: writer.array("a", "u1", (MIB - layout.HEADER_BYTES,)).fill(1)).path
    os.truncate(entry / "a.npy", MIB + 1)
    with pytest.raises(reader.Unusable, match=r"a\.npy: 1,048,577 bytes where cache\.json says 1,048,576"):
        reader.read(entry, KEY, None)
    monkeypatch.setattr(reader, "_check_shape", lambda descriptor, file: None)
    assert reader.read(entry, KEY, None).checked_bytes == MIB


def flip(path: Path, place: int, bit: int = 0) -> None:
    path.chmod(0o644)
    with path.open("rb+") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_bit_is_found_anywhere_by_the_full_check(root: Path) -> None:
    opened(root, filled(1, mebibytes=4))
    entry = entry_path(root, "photos", KEY)
    for place in [0, 5, 4095, 4096, 2 * MIB, 4 * MIB + 4095]:
        flip(entry / "images.npy", place)
        with pytest.raises(reader.Unusable, match=r"images.npy: its (header|content)"):
            reader.read(entry, KEY, None)
        flip(entry / "images.npy", place)
    assert value_of(reader.read(entry, KEY, None)) == 1


def test_a_sampled_check_finds_it_as_often_as_it_says_and_no_more(root: Path) -> None:
    opened(root, filled(1, mebibytes=8))
    entry = entry_path(root, "photos", KEY)
    state = random.getstate()
    flip(entry / "images.npy", 3 * MIB)
    found = 0
    for _ in range(200):  # images are 9 MiB of which 2 are always looked at, labels are 1; of 7 one more is drawn
        try:
            assert reader.read(entry, KEY, 4 * MIB).checked_bytes == 4 * MIB
        except reader.Unusable:
            found += 1
    assert 10 <= found <= 55  # 200 / 7 is 28.6; both ends have p < 1e-4
    assert reader.read(entry, KEY, 0).arrays["images"].min() == 0, "the negative control: unlooked at, it is accepted"
    assert random.getstate() == state, "the user's random numbers are the user's"
    rebuilt(root, "MiB 3 of 9", check_bytes=None)


def test_a_flipped_bit_in_the_manifest_never_passes(root: Path, entry: Path) -> None:
    raw = (entry / "cache.json").read_bytes()
    for place in range(0, len(raw), 3):
        flip(entry / "cache.json", place, place % 8)
        with suppress(reader.Unusable):
            assert value_of(reader.read(entry, KEY, None)) == 1  # one kind of blank for another
            assert json.loads((entry / "cache.json").read_text()) == json.loads(raw)
        (entry / "cache.json").write_bytes(raw)
    flip(entry / "cache.json", raw.index(b"images"))
    rebuilt(root, "cache.json: damaged: its digest does not match its content")


def edit(entry: Path, **changes: Any) -> None:
    """Change the manifest as one who knows its digest would."""
    manifest = layout.unseal((entry / "cache.json").read_bytes())
    (entry / "cache.json").write_bytes(layout.seal({**manifest, **changes}))


def edit_array(entry: Path, **changes: Any) -> None:
    files = json.loads((entry / "cache.json").read_text())["files"]
    edit(entry, files={**files, "images": {**files["images"], **changes}})


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"digest": 1e999}', b'{"format": 1}', b"\xff\xfe", b"1" * 10_000],
    ids=["empty", "object", "list", "null", "nested", "infinite", "no digest", "not text", "long number"],
)
def test_what_is_no_manifest_is_built_again(root: Path, entry: Path, text: bytes) -> None:
    (entry / "cache.json").write_bytes(text)
    rebuilt(root, "cache.json: damaged")


def test_a_manifest_of_gigabytes_is_not_read(root: Path, entry: Path) -> None:
    os.truncate(entry / "cache.json", 1 << 40)
    rebuilt(root, "1,099,511,627,776 bytes are too many")


def test_another_fingerprint_is_built_again(root: Path, entry: Path) -> None:
    entry.rename(entry_path(root, "photos", KEY[::-1]))
    cache = open_or_build(root, "photos", KEY[::-1], filled(2))
    assert value_of(cache) == 2
    assert f"the fingerprint '{KEY}', of other data; built again" in cache.notes[0]


def test_a_newer_format_is_refused_by_name_and_kept(root: Path, entry: Path) -> None:
    edit(entry, format=2)
    with pytest.raises(DataError, match="its format 2 is newer than 1, which this torchspeed reads; upgrade it"):
        opened(root)
    edit(entry, format=1)
    assert value_of(opened(root)) == 1
    edit(entry, format=0)
    rebuilt(root, "format 0 where 1 is read")


class Touch:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("edited", [False, True])
def test_a_pickle_in_place_of_an_array_is_refused_and_not_run(root: Path, entry: Path, edited: bool) -> None:
    canary, path = root.with_name("canary"), entry / "images.npy"
    path.unlink()
    np.save(path, np.array([Touch(canary)], object))
    if edited:
        size = path.stat().st_size
        edit_array(entry, dtype="|O", shape=[1], bytes=size, xxh3_128_of_each_mebibyte=["00"])
    copy = shutil.copy(path, root.with_name("copy.npy"))
    rebuilt(root, "dtype '|O' is not plain numbers" if edited else "images.npy")
    assert not canary.exists()
    np.load(copy, allow_pickle=True)
    assert canary.exists(), "the negative control: the real reader runs it"


@pytest.mark.parametrize("edited", [False, True])
def test_a_header_that_declares_terabytes_is_refused_at_once(root: Path, entry: Path, edited: bool) -> None:
    huge = layout.ArrayFile(np.dtype(np.uint8), (1 << 42,), ("0" * 32,) * 3)
    path = entry / "images.npy"
    path.chmod(0o644)
    with path.open("rb+") as file:
        file.write(huge.header)
    if edited:
        edit_array(entry, **json.loads(json.dumps(huge.as_json())))
    started = time.monotonic()
    rebuilt(root, "do not agree" if edited else "images.npy: its header is not that of uint8 [64, 128, 128]")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-64, -128, 128]},
        {"shape": [64.0, 128, 128]},
        {"shape": [64, 128, 128, 1 << 70]},
        {"shape": [1] * 100},
        {"dtype": "(1000000000,)u1"},
        {"dtype": 5},
        {"bytes": 10},
        {"xxh3_128_of_each_mebibyte": None},
    ],
)
def test_impossible_arrays_are_refused(root: Path, entry: Path, changes: dict[str, Any]) -> None:
    edit_array(entry, **changes)
    rebuilt(root, "damaged")


def test_a_manifest_cannot_point_outside(root: Path, entry: Path) -> None:
    files = json.loads((entry / "cache.json").read_text())["files"]
    edit(entry, files={"../../secret": files["images"]})
    rebuilt(root, "is not the name of an array")


@pytest.mark.parametrize("kind", ["missing", "pipe", "folder", "replaced"])
def test_a_file_that_is_none_is_built_again_without_a_wait(root: Path, entry: Path, kind: str) -> None:
    path = entry / "images.npy"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "replaced":
        np.save(path, np.zeros((64, 128, 128), np.uint8))
    join(run(lambda: rebuilt(root, "images.npy")))


def test_whoever_has_it_mapped_keeps_what_it_had_while_it_is_built_again(root: Path, entry: Path) -> None:
    before = opened(root)
    (entry / "cache.json").write_text("{}")
    rebuilt(root, "cache.json")
    assert value_of(before) == 1
    shutil.rmtree(entry)
    assert value_of(before) == 1


def test_files_of_others_are_kept(root: Path, entry: Path) -> None:
    (entry / "cache.json").unlink()
    (entry / "thesis.txt").write_text("precious")
    cache = opened(root, filled(2))
    assert "not ours to remove" in cache.notes[0]
    (kept,) = root.glob(".aside-*/thesis.txt")
    opened(root)
    open_or_build(root, "other", KEY, filled(0))
    assert kept.read_text() == "precious"


def test_one_that_may_not_be_read_is_not_thrown_away(root: Path, entry: Path) -> None:
    def nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)  # root reads everything
        with pytest.raises(StorageError, match="cannot be read: Permission denied"):
            opened(root, filled(2))

    entry.chmod(0)
    join(run(nobody))
    entry.chmod(0o755)
    assert value_of(opened(root)) == 1
