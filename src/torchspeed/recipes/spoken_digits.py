"""Spoken digits: 3 000 recordings of the words "zero" to "nine" by six speakers, at 8 kHz.

Goal: 97 % of the test set, which is recordings 0 to 4 of each digit and speaker. The speakers are those of the
training set, so it is about the words, not about voices that were never heard. ``--data`` is the folder ``recordings``
of github.com/Jakobovski/free-spoken-digit-dataset (Jackson et al., Free Spoken Digit Dataset, CC BY-SA 4.0).
"""

import math

from torch import nn

import torchspeed
from torchspeed import models, optim
from torchspeed.data.audio import Waveforms, read_spoken_digits
from torchspeed.data.log_mel import LogMel
from torchspeed.errors import DataError

SECONDS = 1.0  # 99 of 100 recordings are shorter; of the others the middle is kept
SHIFT_SECONDS, GAIN_DB = 0.1, 6.0


def job(data: str | None = None, epochs: float = 10, batch_size: int = 32, seed: int = 0) -> torchspeed.Job:
    if data is None:
        raise DataError(
            "spoken-digits comes without data; clone github.com/Jakobovski/free-spoken-digit-dataset "
            "and give its folder of wav files: --data free-spoken-digit-dataset/recordings"
        )
    train, test = read_spoken_digits(data)
    rate = train.sample_rate
    length = round(SECONDS * rate)
    steps = math.ceil(epochs * math.ceil(len(train) / batch_size))
    return torchspeed.Job(
        name="spoken-digits",
        model=lambda: SpokenDigits(rate),
        train=Waveforms(train, length, shift=round(SHIFT_SECONDS * rate), gain_db=GAIN_DB),
        valid=Waveforms(test, length),
        loss=nn.CrossEntropyLoss(label_smoothing=0.1),
        optimizer=optim.optimizer("adamw", learning_rate=5e-3, weight_decay=0.05),
        schedule=optim.schedule("cosine", steps=steps, warmup_steps=steps // 10),
        metric="accuracy",
        goal=torchspeed.Goal("accuracy", at_least=0.97),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
    )


class SpokenDigits(nn.Sequential):
    """Waveforms float32 [B, samples] to logits [B, 10]: the log-mel spectrogram, seen as a picture of one channel.

    The spectrogram is part of the model: it is computed where the model is, for a whole batch at once, and whoever uses
    the trained model gives it sound.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__(
            LogMel(sample_rate, n_fft=512, hop=128, mels=40, floor=1e-6),
            nn.Unflatten(1, (1, 40)),
            nn.BatchNorm2d(1),
            models.CNN(1, 10, width=32, depth=4),
        )
