"""CIFAR-10: 50 000 + 10 000 pictures of ten kinds of things, 32×32 pixels.

Goal: 89 % without test-time augmentation, for pictures that went through JPEG (which costs about three points), on
two CPU cores in a quarter of an hour. Network, optimizer and augmentation follow the public speed records, with a
small batch, since a CPU gains nothing from a large one.
Sources: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; Jordan, arXiv:2404.00498.
``--data``: a folder with the parquet files of the Hugging Face hub, the standard binary or python archives, or
images as ``train/CLASS/*.png`` and ``test/CLASS/*.png``.
"""

import math
from collections.abc import Iterable

import numpy as np
from torch import Tensor, nn

import torchspeed
from torchspeed import models, optim
from torchspeed.data.cifar import read_cifar10
from torchspeed.data.images import ImageBatches, channel_statistics
from torchspeed.data.random import sample_keys
from torchspeed.errors import DataError

FILTER_RATE, BIAS_RATE, HEAD_RATE = 0.06, 13.25, 2.56e-3
MOMENTUM = 0.85
DECAY_PER_SAMPLE = 2e-6  # the weight decay of a step is this times the batch size, whatever the rate
WHITENING_IMAGES = 5_000


def job(data: str | None = None, epochs: float = 8, batch_size: int = 250, seed: int = 0) -> torchspeed.Job:
    if data is None:
        raise DataError("cifar10 comes without data; give the folder that holds them: --data FOLDER")
    train, test = read_cifar10(data)
    mean, std = channel_statistics(train.images)
    plain = ImageBatches(train.images, train.labels, mean=mean, std=std)
    steps = math.ceil(epochs * (len(plain) // batch_size))

    def model() -> nn.Module:
        net = models.SpeedNet(widths=(64, 256, 256), train_stem_bias=False)
        some = np.arange(min(WHITENING_IMAGES, len(plain)))
        models.whiten(net, plain.batch(some, sample_keys(0, 0, some))[0])
        return net

    def optimizer(params: Iterable[Tensor]) -> optim.Muon:
        trained = [parameter for parameter in params if parameter.requires_grad]
        filters = [parameter for parameter in trained if parameter.ndim == 4]
        biases = [parameter for parameter in trained if parameter.ndim == 1]
        head = [parameter for parameter in trained if parameter.ndim == 2]
        decay = DECAY_PER_SAMPLE * batch_size
        return optim.Muon(
            [
                {"params": filters, "algorithm": "muon", "lr": FILTER_RATE, "momentum": MOMENTUM},
                {"params": biases, "algorithm": "sgd", "lr": BIAS_RATE, "weight_decay": decay / BIAS_RATE},
                {"params": head, "algorithm": "sgd", "lr": HEAD_RATE, "weight_decay": decay / HEAD_RATE},
            ],
            ns_steps=3,
            normalize_filters=True,
            companion_momentum=MOMENTUM,
        )

    return torchspeed.Job(
        name="cifar10",
        model=model,
        train=ImageBatches(train.images, train.labels, mean=mean, std=std, translate=2, flip="alternating"),
        valid=ImageBatches(test.images, test.labels, mean=mean, std=std),
        loss=nn.CrossEntropyLoss(label_smoothing=0.2),
        optimizer=optimizer,
        schedule=optim.schedule("polynomial", steps=steps),
        metric="accuracy",
        goal=torchspeed.Goal("accuracy", at_least=0.89),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        drop_last=True,
    )
