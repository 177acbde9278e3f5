"""What is said of the step, the data, the batch size and the schedule of a job."""

import pytest
import torch

from torchspeed.measure.advice import advise

NET = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Dropout(0.1), nn.Linear(768, 4))
"""


def job(**fields: str) -> str:
    """A job file; ``# here`` marks the line of a field that ends in it."""
    usual = {
        "model": "Net",
        "train": "(pictures[:32], labels[:32])",
        "valid": "(pictures[32:], labels[32:])",
        "loss": "nn.CrossEntropyLoss()",
        "optimizer": "adam",
        "batch_size": "16",
    }
    lines = []
    for name, value in {**usual, **fields}.items():
        value, mark, _ = value.partition("  # here")
        lines.append(f"        {name}={value},{mark}\n" if value else "")
    return f"{NET}\ndef job():\n    return torchspeed.Job(\n{''.join(lines)}    )\n"


def test_zero_workers_with_a_step_that_waits(advised, marked) -> None:
    text = job(train="(pictures, labels)  # here", valid="")
    (advice,) = advised(text, "zero_workers", shares={"data": 0.5, "forward": 0.5})
    assert [advice.place] == marked()
    assert advice.effect == "at most 2.00× if data were free"
    assert "waits for them 50% of its time" in advice.found
    assert advised(text, "zero_workers", shares={"data": 0.02}) == []
    assert advised(text, "zero_workers") == []


def test_workers_that_are_there_are_not_asked_for(subject_of) -> None:
    subject = subject_of(job(), shares={"data": 0.5})
    subject.run.loader.workers = 2
    assert [advice for advice in advise(subject)[0] if advice.name == "zero_workers"] == []


STEP = """
def step(model, batch):
    inputs, target = batch
    loss = F.cross_entropy(model(inputs), target)
    {}
    return loss
"""


ASKING = (
    *("seen = loss.item()", "seen = float(loss)", "seen = 1 if loss > 2 else 0", "seen = f'{loss:.3f}'"),
    *("seen = loss.detach().cpu()", "seen = loss.to('cpu')", "seen = loss.detach().numpy()"),
    *("print(loss)", "print('step')"),
)
SELDOM = """step.n = getattr(step, 'n', -1) + 1
    if step.n % 100 == 0:
        print(loss.item())"""


@pytest.mark.parametrize("line", ASKING)
def test_a_step_that_asks_for_a_value(advised, marked, line: str) -> None:
    (advice,) = advised(STEP.format(f"{line}  # here") + job(loss="", step="step", valid=""), "host_sync")
    assert [advice.place] == marked()
    assert "in the step, 1 time" in advice.found


@pytest.mark.parametrize("line", ["seen = loss.detach()", SELDOM])
def test_a_step_that_asks_for_nothing_or_seldom(advised, line: str) -> None:
    assert advised(STEP.format(line) + job(loss="", step="step", valid=""), "host_sync") == []


def test_a_value_asked_for_in_forward_and_in_a_helper(advised, marked) -> None:
    text = """
def helper(x):
    return x.max().item()  # here

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(768, 4)

    def forward(self, x):
        x = x / helper(x)
        return self.fc(x.flatten(1)) * (1 + x.abs().sum().tolist())  # here
"""
    found = advised(text, "host_sync")
    assert [advice.place for advice in found] == marked()


GOOD_SIZES = [(size, "") for size in (48, 64, 100, 128, 250, 1000)]


@pytest.mark.parametrize(("size", "said"), [(65, "1.97×"), (129, "1.49×"), (257, "1.25×"), *GOOD_SIZES])
def test_a_batch_just_over_a_multiple(advised, marked, size: int, said: str) -> None:
    found = advised(job(batch_size=f"{size}  # here"), "batch_tail")
    assert [advice.place for advice in found] == (marked() if said else [])
    assert all(said in advice.effect for advice in found)


def test_a_batch_size_given_by_a_name_is_found_where_it_is_set(advised, marked) -> None:
    text = job(batch_size="batch_size").replace("def job():", "def job(\n    batch_size=129,  # here\n):")
    (advice,) = advised(text, "batch_tail")
    assert [advice.place] == marked()


VALID = {
    "the same tensors": "(pictures[:32], labels[:32])",
    "some of its rows": "(pictures[20:40], labels[20:40])",
    "a copy": "(pictures[:32].clone(), labels[:32])",
}


@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
def test_validation_rows_that_are_trained_on(advised, marked, valid: str) -> None:
    (advice,) = advised(job(valid=f"{valid}  # here"), "validation_in_training")
    assert [advice.place] == marked()
    assert f"{12 if '20' in valid else 32} of" in advice.effect


def test_subsets_of_one_dataset(advised, marked) -> None:
    text = "from torch.utils.data import Subset, TensorDataset\nall_data = TensorDataset(pictures, labels)\n"
    overlap = job(train="Subset(all_data, range(40))", valid="Subset(all_data, range(37, 48))  # here")
    (advice,) = advised(text + overlap, "validation_in_training")
    assert [advice.place] == marked()
    assert advice.effect.startswith("3 of 11 validation samples are trained on")
    apart = job(train="Subset(all_data, range(40))", valid="Subset(all_data, range(40, 48))")
    assert advised(text + apart, "validation_in_training") == []


def test_the_same_pictures_behind_other_transforms(advised, marked) -> None:
    text = """
class Pictures(torch.utils.data.Dataset):
    def __init__(self, rows, transform):
        self.rows, self.transform = rows, transform
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return self.transform(pictures[self.rows[index]]), int(labels[self.rows[index]])

def noisy(image):
    return image + torch.rand_like(image)

def plain(image):
    return image
"""
    same = job(train="Pictures(range(32), noisy)", valid="Pictures(range(32), plain)  # here")
    (advice,) = advised(text + same, "validation_in_training")
    assert [advice.place] == marked()
    apart = job(train="Pictures(range(32), noisy)", valid="Pictures(range(32, 48), plain)")
    assert advised(text + apart, "validation_in_training") == []


def test_data_that_repeat_themselves_are_not_accused(advised) -> None:
    text = "few = torch.randint(2, (400, 768), generator=torch.Generator().manual_seed(0)).float()\nfew[:, 4:] = 0\n"
    text += "answers = torch.zeros(400, dtype=torch.long)\n"
    repeated = job(train="(few[:300], answers[:300])", valid="(few[300:], answers[300:])")
    assert advised(text + repeated, "validation_in_training") == []


def test_no_validation_set_is_no_fault(advised) -> None:
    assert advised(job(valid=""), "validation_in_training") == []


STEP_LR = "lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)"
COSINE = "lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, {})"


@pytest.mark.parametrize(
    ("schedule", "every", "epochs", "said"),
    [
        (STEP_LR, "step", 50, "from move 35 on the learning rate is below 1/10,000"),
        (STEP_LR, "epoch", 20, ""),
        (COSINE.format(50), "step", 500, "goes up and down 19 times"),
        (COSINE.format(50), "epoch", 50, ""),
        (COSINE.format(20000), "epoch", 100, "changes by 0.0% in all"),
        (COSINE.format(200), "step", 100, ""),
        ("lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)", "step", 10, "fails"),
        ("lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)", "step", 10, ""),
    ],
)
def test_a_schedule_stepped_at_another_pace(advised, marked, schedule: str, every: str, epochs: int, said: str) -> None:
    text = job(schedule=f"{schedule}  # here", schedule_every=f'"{every}"', epochs=str(epochs))
    if "20000" in schedule:
        text = text.replace("[:32]", "[:32].repeat_interleave(40, 0)").replace("batch_size=16", "batch_size=8")
    found = advised(text, "schedule_pace")
    assert [advice.place for advice in found] == (marked() if said else [])
    assert all(said in advice.effect for advice in found)


def test_asking_for_the_schedule_leaves_the_optimizer_alone(subject_of) -> None:
    subject = subject_of(job(schedule=STEP_LR, epochs="50"))
    before = subject.run.optimizer.param_groups[0]["lr"], subject.run.schedule.state_dict()["last_epoch"]
    advise(subject)
    assert (subject.run.optimizer.param_groups[0]["lr"], subject.run.schedule.state_dict()["last_epoch"]) == before


def test_a_learning_rate_of_zero(advised, marked) -> None:
    text = job(optimizer="lambda params: torch.optim.SGD(params, lr={})  # here")
    (advice,) = advised(text.format("0.0"), "learning_rate_zero")
    assert [advice.place] == marked()
    assert advice.effect == "3,076 of 3,076 parameters never change"
    warm = job(schedule="lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: min(1, n / 4))")
    assert advised(warm, "learning_rate_zero") == []


def test_a_step_that_leaves_the_model_in_eval(advised, marked) -> None:
    text = STEP.format("model.eval()  # here") + job(loss="", step="step", valid="")
    (advice,) = advised(text, "left_in_eval")
    assert [advice.place] == marked()
    assert advice.effect.startswith("1 layer of dropout and batch norm")
    back = STEP.format("model.eval()\n    model.train()") + job(loss="", step="step", valid="")
    assert advised(back, "left_in_eval") == []


def test_anomaly_detection_and_determinism_left_on(advised, marked) -> None:
    text = "torch.autograd.set_detect_anomaly(True)  # here\ntorch.use_deterministic_algorithms(True)  # here\n" + job()
    try:
        found = advised(text, "debugging_left_on")
        assert [advice.place for advice in found] == marked()
        assert "each of 4 operations" in found[0].effect
    finally:
        torch.autograd.set_detect_anomaly(False)
        torch.use_deterministic_algorithms(False)
    assert advised(job(), "debugging_left_on") == []
