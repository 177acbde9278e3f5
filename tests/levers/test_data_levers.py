"""The levers of the data pillar in a job: other ways to load the same data, so the same training, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import torchspeed
from torchspeed.data.pipeline.compiled import Compiled, Lowered
from torchspeed.errors import PlanError
from torchspeed.machine import Machine
from vision import MEAN, STD, Pictures, pictures, v1

CHAIN = [v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]


def job(**changes: Any) -> torchspeed.Job:
    """One epoch of a tiny network on images with the usual augmentation."""
    options: dict[str, Any] = {
        "model": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)),
        "train": Pictures(pictures(40), v1.Compose(CHAIN)),
        "valid": Pictures(pictures(16, seed=2), v1.Compose(CHAIN[2:])),
        "loss": nn.CrossEntropyLoss(),
        "optimizer": lambda params: torch.optim.SGD(params, lr=0.1),
        "metric": "accuracy",
        "batch_size": 8,
        "epochs": 2,
    }
    return torchspeed.Job(**{**options, **changes})


def run(plan: torchspeed.Plan, what: torchspeed.Job | None = None) -> torchspeed.Run:
    return torchspeed.build(what or job(), plan, Machine.detect("cpu"))


def weights(folder: Path, plan: torchspeed.Plan) -> dict[str, Any]:
    """Digests of all that a run ends with."""
    torchspeed.train(job(), plan, run_dir=folder, progress=False, device="cpu")
    newest = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text()
    return {path.name: path.read_bytes() for path in newest.glob("model.safetensors")}


def test_a_compiled_pipeline_trains_to_the_same_weights(tmp_path: Path) -> None:
    as_written = weights(tmp_path / "written", torchspeed.Plan())
    compiled = torchspeed.Plan.of(pipeline="compiled", loader_workers=2, prefetch=4)
    assert weights(tmp_path / "compiled", compiled) == as_written
    assert as_written


def test_pipeline_compiles_training_and_validation_data() -> None:
    live = run(torchspeed.Plan.of(pipeline="compiled"))
    assert isinstance(live.loader.dataset, Lowered)  # type: ignore[attr-defined]
    assert isinstance(live.valid.dataset, Lowered)  # type: ignore[union-attr]
    assert live.applied == ["pipeline=compiled"]


def test_what_cannot_be_compiled_is_skipped_with_the_reason() -> None:
    data = torch.randn(40, 3, 32, 32), torch.zeros(40, dtype=torch.int64)
    live = run(torchspeed.Plan.of(pipeline="compiled"), job(train=data, valid=data))
    assert live.skipped == ["pipeline=compiled is skipped: TensorBatches gives whole batches by itself"]
    collated = job(collate=torch.utils.data.default_collate)
    assert "collate" in run(torchspeed.Plan.of(pipeline="compiled"), collated).skipped[0]


class Files(Dataset[Any]):
    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.labels = [number % 10 for number in range(len(self.paths))]
        self.transform = v1.Compose([v1.RandomResizedCrop(32), *CHAIN[1:]])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torchspeed.Job:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, image in enumerate(pictures(16, 48, 64)):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.jpg")
    return job(train=Files(tmp_path), valid=None, metric="loss")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (torchspeed.Plan.of(placement="none"), "decoded each time"),
        (torchspeed.Plan.of(placement="ram"), "kept in RAM"),
        (torchspeed.Plan.of(placement="mapped"), "a mapped file"),
        (torchspeed.Plan.of(decode="scaled"), "decoded each time"),
        (torchspeed.Plan.of(decode="exact", pipeline="compiled"), "decoded each time"),
    ],
    ids=str,
)
def test_placement_and_decoding_compile_the_pipeline(files: torchspeed.Job, plan: torchspeed.Plan, words: str) -> None:
    live, written = run(plan, files), run(torchspeed.Plan(), files)
    dataset = live.loader.dataset  # type: ignore[attr-defined]
    assert isinstance(dataset, Compiled)
    assert words in dataset.rows[0].where
    if "scaled" not in str(plan):
        assert torch.equal(live.loader.batch(0, 0)[0], written.loader.batch(0, 0)[0])


def test_no_device_memory_on_a_machine_without_a_device(files: torchspeed.Job) -> None:
    assert "no device" in run(torchspeed.Plan.of(placement="device"), files).skipped[0]


def test_decode_and_placement_exclude_each_other(files: torchspeed.Job) -> None:
    with pytest.raises(PlanError, match="exclude each other"):
        run(torchspeed.Plan.of(decode="scaled", placement="ram"), files)


def test_explain_shows_the_plan_of_both_datasets() -> None:
    for plan, words in (
        (torchspeed.Plan(), "with pipeline=compiled"),
        (torchspeed.Plan.of(pipeline="compiled"), "compiled"),
    ):
        explanation = torchspeed.explain(job(), plan, device="cpu")
        assert set(explanation.pipelines) == {"train", "valid"}
        assert words in explanation.pipelines["train"]
        assert "RandomCrop((32, 32), padding=4)" in str(explanation)
