"""The works of ``tune.py`` as jobs: ``torchspeed tune bench/tune_jobs.py:cnn_64 --data FOLDER``.

``FOLDER`` is one that ``tune.py`` has prepared (``--folder``): CIFAR-10 as torchvision's class reads it, and as arrays.
"""

from functools import partial
from pathlib import Path

from torch import nn

import torchspeed
from tune_work import WORKS, Work, adam, as_people_read

EPOCHS = 10


def _job(work: Work, data: str) -> torchspeed.Job:
    return torchspeed.Job(
        name=work.name,
        model=work.model,
        train=partial(as_people_read, work, Path(data)),
        loss=nn.CrossEntropyLoss(),
        optimizer=adam,
        batch_size=work.batch_size,
        epochs=EPOCHS,
        drop_last=True,
    )


def cnn_64(data: str) -> torchspeed.Job:
    return _job(WORKS["cnn_64"], data)


def cnn_256(data: str) -> torchspeed.Job:
    return _job(WORKS["cnn_256"], data)


def cnn_64_free(data: str) -> torchspeed.Job:
    return _job(WORKS["cnn_64_free"], data)


def cnn_256_free(data: str) -> torchspeed.Job:
    return _job(WORKS["cnn_256_free"], data)


def tutorial(data: str) -> torchspeed.Job:
    return _job(WORKS["tutorial"], data)
