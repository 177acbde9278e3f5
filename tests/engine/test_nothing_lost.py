"""What belongs to the user stays, what is reported is true, and what looks right is right."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchspeed
from tiny import Noisy, blobs_job, noisy_job
from torchspeed import Goal, Machine, Plan, build, optim
from torchspeed.engine import checkpoint
from torchspeed.engine.evaluate import correct, evaluate
from torchspeed.engine.guard import preflight
from torchspeed.errors import CheckpointError, DataError, DivergedError, JobError, RunDirectoryError


def train(job: torchspeed.Job, run_dir: Path | None = None, **options: Any) -> torchspeed.Result:
    return torchspeed.train(job, run_dir=run_dir, progress=False, device="cpu", **options)


def exploding(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e38)


@pytest.mark.parametrize("name", ["plan.toml", "metrics.jsonl", "result.json", "checkpoints"])
def test_a_folder_with_files_of_those_names_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    with pytest.raises(RunDirectoryError, match=f"already holds {name}"):
        train(blobs_job(), tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "precious"


def test_a_failed_start_takes_back_only_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(JobError):
        train(blobs_job(optimizer=lambda params: torch.optim.LBFGS(params)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_only_looks_like_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2):
        checkpoint.save(folder, step, {"model": {}, "x": torch.ones(2)}, {})
    for name in ("step-500", "step-best", "step-000000000.bak"):
        (folder / name).mkdir()
    (folder / "step-000000001x").write_text("mine")
    checkpoint.save(folder, 3, {"model": {}, "x": torch.ones(2)}, {})
    assert checkpoint.newest(folder)[0].step == 3
    assert {"step-500", "step-best", "step-000000000.bak", "step-000000001x"} <= {p.name for p in folder.iterdir()}


def test_two_runs_by_default_name_have_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results: list[torchspeed.Result] = []
    threads = [threading.Thread(target=lambda: results.append(train(blobs_job(epochs=0.1)))) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({result.run_dir for result in results}) == 2


def test_one_process_at_a_time_trains_in_a_directory(tmp_path: Path) -> None:
    train(blobs_job(epochs=1), tmp_path / "run")
    holder = torchspeed.RunDirectory.existing(tmp_path / "run")
    holder.hold()
    for _ in range(2):  # whoever is turned away leaves the lock where it is
        with pytest.raises(RunDirectoryError, match="another process is training in it"):
            train(blobs_job(epochs=2), resume=tmp_path / "run")
    holder.release()
    assert train(blobs_job(epochs=2), resume=tmp_path / "run").steps == 16


def test_no_checkpoint_is_beyond_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="at step 2; the last checkpoint is from before it"):
        train(blobs_job(optimizer=exploding, epochs=20), tmp_path / "run", log_every=100, checkpoint_every=1)
    found, _ = checkpoint.newest(tmp_path / "run" / "checkpoints")
    assert found.step == 1


def test_a_loss_that_is_not_finite_after_the_last_log_is_seen(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(blobs_job(optimizer=exploding, epochs=1), tmp_path / "run", log_every=100, checkpoint_every=100)


def test_samples_are_counted_as_they_are(tmp_path: Path) -> None:
    result = train(noisy_job(tmp_path / "ids"), tmp_path / "run")  # 52 samples, batches of 8, 3 epochs
    assert result.samples_per_second * result.seconds == pytest.approx(156)
    result = train(noisy_job(tmp_path / "ids", drop_last=True), tmp_path / "other")
    assert result.samples_per_second * result.seconds == pytest.approx(144)


def test_another_goal_begins_anew_when_resuming(tmp_path: Path) -> None:
    easy = blobs_job(goal=Goal("accuracy", at_least=0.0), stop_at_goal=True)
    assert train(easy, tmp_path / "run").steps == 8
    result = train(blobs_job(goal=Goal("accuracy", at_least=1.1), stop_at_goal=True), resume=tmp_path / "run")
    assert (result.steps, result.goal_reached, result.seconds_to_goal) == (48, False, None)


def test_an_edited_plan_is_not_resumed(tmp_path: Path) -> None:
    train(blobs_job(), tmp_path / "run")
    (tmp_path / "run" / "plan.toml").write_text("gradient_accumulation = 2\n")
    with pytest.raises(CheckpointError, match=r"plan.toml: was changed since"):
        train(blobs_job(epochs=9), resume=tmp_path / "run")


def test_metrics_are_json_that_other_programs_read(tmp_path: Path) -> None:
    inputs, labels = blobs_job().valid  # type: ignore[misc]
    train(blobs_job(valid=(inputs * torch.inf, labels), goal=None, metric="loss"), tmp_path / "run")
    for file in ("metrics.jsonl", "result.json"):
        text = (tmp_path / "run" / file).read_text()
        assert "null" in text
        assert "NaN" not in text


def test_a_late_bad_label_of_the_validation_data_is_said_clearly(tmp_path: Path) -> None:
    class Late(Noisy):
        def __getitem__(self, index: int) -> Any:
            return self.inputs[index], 7 if index == 50 else 0

    with pytest.raises(DataError, match=r"label 7 is out of range \(valid\): the model gives 2 classes"):
        train(blobs_job(valid=Late()), tmp_path / "run")


def test_a_schedule_that_ends_early_is_said_clearly(tmp_path: Path) -> None:
    def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)

    with pytest.raises(JobError, match=r"the schedule cannot go on after step 6: Tried to step"):
        train(blobs_job(schedule=one_cycle), tmp_path / "run")


def test_other_losses_may_read_integer_targets_their_own_way(tmp_path: Path) -> None:
    inputs, labels = blobs_job().train  # type: ignore[misc]
    masked = labels.clone()
    masked[::4] = 255

    def ignoring(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, ignore_index=255)

    train(blobs_job(train=(inputs, masked), loss=ignoring), tmp_path / "one")

    def binary(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output[:, 0], target.float())

    result = train(blobs_job(model=lambda: nn.Linear(6, 1), loss=binary, epochs=20), tmp_path / "two")
    assert result.value is not None
    assert result.value > 0.9


def test_accuracy_of_one_hot_targets_compares_classes() -> None:
    output = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 3, 2]])
    one_hot = nn.functional.one_hot(torch.tensor([0, 1, 1]), 3).float()
    assert correct(output, one_hot).tolist() == [True, False, True]
    with pytest.raises(JobError, match="several labels per sample; give metric="):
        correct(output, torch.ones(3, 3))


def test_an_ignored_class_does_not_count() -> None:
    job = blobs_job(loss=nn.CrossEntropyLoss(ignore_index=0))
    scores = evaluate(build(job, Plan(), Machine.detect("cpu")), job)
    assert scores is not None
    inputs, target = job.valid  # type: ignore[misc]
    torch.manual_seed(0)
    right = job.model()(inputs).argmax(1) == target
    assert scores.metric == float(right[target != 0].double().mean())


@pytest.mark.parametrize("name", ["schedulefree", "adam"])
def test_an_evaluation_leaves_weights_and_generators_bit_for_bit(tmp_path: Path, name: str) -> None:
    class Draws(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.rand_like(x))

    job = blobs_job(model=lambda: Draws(6, 2), optimizer=optim.optimizer(name, learning_rate=0.1), epochs=1)
    run = build(job, Plan(), Machine.detect("cpu"))
    step = torchspeed.engine.step.make_step(run)
    for batch in run.loader.epoch(0):
        step(batch)
    weights, generator = [p.detach().clone() for p in run.model.parameters()], torch.get_rng_state()
    evaluate(run, job)
    assert all(torch.equal(p, w) for p, w in zip(run.model.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)


def test_data_that_are_drawn_when_made_are_the_same_every_time() -> None:
    def drawn() -> tuple[Tensor, Tensor]:
        return torch.randn(64, 6), torch.randint(0, 2, (64,))

    job = blobs_job(train=drawn)
    first, second = (build(job, Plan(), Machine.detect("cpu")).loader.batch(0, 0)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_the_check_before_step_1_leaves_no_trace_in_buffers() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("wide", torch.zeros(1).expand(4))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return self.layer(x)

    job = blobs_job(model=Counts)
    run = build(job, Plan(), Machine.detect("cpu"))
    preflight(run, job)
    assert float(run.model.calls) == 0  # type: ignore[arg-type]


def test_accumulation_refuses_class_weights(tmp_path: Path) -> None:
    job = blobs_job(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])))
    result = train(job, tmp_path / "run", plan=Plan.of(gradient_accumulation=2))
    assert "the loss weights its classes" in result.skipped[0]
