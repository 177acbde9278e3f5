"""A resize that makes pixels out of nothing, in a chain of torchvision's and in a model."""

import pytest

pytest.importorskip("vision", reason="torchvision is not installed")

DATA = """
import numpy as np
from PIL import Image
from torchvision.transforms import v2, Compose, Resize, ToTensor, RandomCrop, CenterCrop, Normalize

class Pictures(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.data = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), np.uint8)
        self.targets = list(range(4)) * 5
        self.transform = transform
    def __len__(self):
        return len(self.data)
    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]

Net = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
train = {}(Pictures(Compose([
    {},
    ToTensor(),
])), range(10))
def job():
    return torchspeed.Job(
        model=Net, train=train, loss=nn.CrossEntropyLoss(), optimizer=adam, batch_size=2)
"""


def data(transform: str, wrapper: str = "torch.utils.data.Subset") -> str:
    text, mark, _ = transform.partition("  # here")
    return DATA.format(wrapper, text).replace(f"    {text},\n", f"    {text},{mark}\n")


@pytest.mark.parametrize(
    ("transform", "size", "times"),
    [
        ("Resize((224, 224))", "224×224", "49"),
        ("v2.Resize(size=96)", "96×96", "9"),
        ("RandomCrop(16),\n    Resize(64)", "64×64", "16"),
    ],
)
def test_upsampling_is_said_with_its_factor(advised, marked, transform: str, size: str, times: str) -> None:
    (advice,) = advised(data(f"{transform}  # here"), "upsampling_resize")
    assert [advice.place] == marked()
    assert f"makes {size} pixels out of" in advice.found
    assert advice.effect == f"work per image grows {times}-fold and no information is added"


@pytest.mark.parametrize(
    "transform", ["Resize((16, 16))", "Resize(48),\n    RandomCrop(32)", "RandomCrop(32, padding=4)"]
)
def test_a_resize_that_adds_no_pixels_is_no_fault(advised, transform: str) -> None:
    assert advised(data(transform), "upsampling_resize") == []


def test_of_two_resizes_the_one_that_trains_is_named(advised, marked) -> None:
    text = data("Resize((224, 224))  # here").replace(
        "Net = lambda", "small = Compose([Resize((32, 32))])\nNet = lambda"
    )
    (advice,) = advised(text, "upsampling_resize")
    assert [advice.place] == marked()


def test_interpolating_what_the_model_is_given(advised, marked) -> None:
    text = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, x):
        {}
        return self.fc(F.interpolate(self.conv(x), scale_factor=2).mean((-2, -1)))
"""
    (advice,) = advised(text.format("x = F.interpolate(x, size=(64, 64))  # here"), "upsampling_resize")
    assert [advice.place] == marked()
    assert "16-fold" in advice.effect
    assert advised(text.format("pass"), "upsampling_resize") == []
