"""Recurrent networks: the plain RNN (Elman, Cognitive Science 1990), LSTM (Hochreiter & Schmidhuber, Neural
Computation 1997) and GRU (Cho et al., arXiv:1406.1078), as a language model or as a classifier of sequences.

Step t needs step t - 1, so a sequence of T steps is a chain of T small matrix products: too little work at a
time to fill the machine, until the batch or the width makes each product large. PyTorch's own classes hand the
whole chain to one call where they can (cuDNN; oneDNN for the LSTM), which is why they are used whole here.
"""

from typing import Literal

from torch import Tensor, nn

from torchspeed.errors import JobError
from torchspeed.models import _arguments

Kind = Literal["rnn", "lstm", "gru"]

_CELLS: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    "rnn": nn.RNN,
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


class RNN(nn.Module):
    """``depth`` recurrent layers of ``width`` units. What comes in and what goes out is said by three sizes:

    - ``RNN(vocabulary=V)``: language model, tokens int64 [B, T] to logits [B, T, V];
    - ``RNN(features=F, classes=C)``: sequences float [B, T, F] to logits [B, C];
    - ``RNN(vocabulary=V, classes=C)``: tokens int64 [B, T] to logits [B, C].

    A classifier takes the mean of the last layer's outputs over time. All sequences of a batch have length T.
    ``dropout`` acts on embeddings, between layers and before the last linear layer. ``bidirectional`` reads
    the sequence both ways (classifiers only: a language model would see the token that it predicts).
    Raises ``JobError`` for sizes that do not go together, and for an argument out of range.
    """

    def __init__(
        self,
        kind: Kind = "lstm",
        *,
        vocabulary: int | None = None,
        features: int | None = None,
        classes: int | None = None,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        _arguments.choice("RNN", _CELLS, kind=kind)
        _arguments.positive("RNN", width=width, depth=depth)
        _arguments.probability("RNN", dropout=dropout)
        given = {"vocabulary": vocabulary, "features": features, "classes": classes}
        sizes = {name: size for name, size in given.items() if size is not None}
        _arguments.positive("RNN", **sizes)
        forms = ({"vocabulary"}, {"features", "classes"}, {"vocabulary", "classes"})
        if set(sizes) not in forms:
            raise JobError(
                f"RNN: got {' and '.join(sizes) or 'no size'}; give vocabulary (language model), "
                "features and classes, or vocabulary and classes (sequence classification)"
            )
        if bidirectional and classes is None:
            raise JobError(
                "RNN: a bidirectional language model sees the token that it predicts; "
                "set bidirectional=False, or give classes"
            )
        self.classifies = classes is not None
        self.embedding: nn.Module = nn.Identity()
        if vocabulary is not None:
            self.embedding = nn.Sequential(nn.Embedding(vocabulary, width), nn.Dropout(dropout))
        self.layers = _CELLS[kind](
            sizes.get("features", width),
            width,
            depth,
            batch_first=True,
            # PyTorch's dropout acts between layers; with a single one there is no such place, and it warns.
            dropout=dropout if depth > 1 else 0.0,
            bidirectional=bidirectional,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width if bidirectional else width, classes or sizes["vocabulary"])

    def forward(self, sequences: Tensor) -> Tensor:
        outputs, _ = self.layers(self.embedding(sequences))
        if self.classifies:
            # The mean gives each step a gradient path of its own; the last step alone forgets the first ones.
            outputs = outputs.mean(dim=1)
        logits: Tensor = self.head(self.dropout(outputs))
        return logits
