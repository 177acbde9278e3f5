"""Metrics are sums over samples divided by their number: exact for uneven batches and ignored targets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tiny import blobs_job
from torchspeed import Machine, Plan, build
from torchspeed.engine.evaluate import Scores, correct, evaluate
from torchspeed.errors import JobError


def scores(**changes: Any) -> Scores:
    job = blobs_job(**changes)
    found = evaluate(build(job, Plan(), Machine.detect("cpu")), job)
    assert found is not None
    return found


def whole(**changes: Any) -> tuple[Tensor, Tensor]:
    """Output and target of the model over the whole validation set at once."""
    job = blobs_job(**changes)
    torch.manual_seed(job.seed)
    inputs, target = job.valid  # type: ignore[misc]
    return job.model()(inputs).detach(), target


@pytest.mark.parametrize("batch_size", [7, 32, 100])
def test_uneven_batches_give_the_mean_over_samples(batch_size: int) -> None:
    output, target = whole()
    found = scores(batch_size=batch_size)
    assert found.metric == float((output.argmax(1) == target).double().mean())
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(output, target)), rel=1e-6)
    assert found.samples == 100


def test_a_summed_loss_is_reported_as_its_mean() -> None:
    assert scores(loss=nn.CrossEntropyLoss(reduction="sum")).loss == pytest.approx(scores().loss, rel=1e-6)


def test_ignored_targets_do_not_count() -> None:
    inputs, target = blobs_job().valid  # type: ignore[misc]
    masked = target.clone()
    masked[::3] = -100
    output, _ = whole()
    kept = masked >= 0
    found = scores(valid=(inputs, masked), batch_size=7)
    assert found.metric == float((output.argmax(1) == target)[kept].double().mean())
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(output[kept], target[kept])), rel=1e-6)


def test_a_metric_of_ones_own_is_averaged_over_samples() -> None:
    def margin(output: Tensor, target: Tensor) -> Tensor:
        return output.max(1).values

    output, _ = whole()
    assert scores(metric=margin, goal=None, batch_size=7).metric == pytest.approx(float(output.max(1).values.mean()))


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        (torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([1, 1]), [1, 0]),
        (torch.tensor([[[0.0, 1], [1, 0]]]), torch.tensor([[1, -100]]), [1]),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4).long(), [1] * 8),
        (torch.tensor([2.0, -1]), torch.tensor([1.0, 1.0]), [1, 0]),
    ],
)
def test_accuracy_for_each_shape(output: Tensor, target: Tensor, expected: list[float]) -> None:
    assert correct(output, target).double().tolist() == expected


def test_accuracy_of_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(JobError, match="output 2x3 does not go with target 5"):
        correct(torch.zeros(2, 3), torch.zeros(5).long())


def test_evaluation_leaves_model_and_generators_as_they_were(tmp_path: Path) -> None:
    job = blobs_job(model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)))
    run = build(job, Plan(), Machine.detect("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluate(run, job)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert run.model.training
