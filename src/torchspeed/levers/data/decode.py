"""JPEG decoded at a reduced scale, where a crop is shrunk by as much anyway.

Physically: a JPEG stores the frequencies of 8 × 8 blocks; leaving the higher ones out of the inverse transform gives
the image at 1/2, 1/4 or 1/8 of its side for a fraction of the work, which the resize then need not undo. It wins on
photographs that are much larger than what the model is given (4000 × 3000 to 224 × 224). It loses nothing where the
crop is not shrunk by a factor of two, because then it does not act; so on small photographs it gains nothing. CLOSE:
the anti-aliasing filter is another one, and pixels differ by a few levels. Setting it compiles the pipeline, and keeps
nothing: every image is decoded anew, at the scale that its crop allows.

Source: libjpeg-turbo, libjpeg.txt, "scale_num, scale_denom".
"""

from typing import Any, final

from torchspeed.data.pipeline.compile import compile_loader
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine
from torchspeed.run import Loader, Run


def decode_scaled(loader: Loader, **settings: Any) -> None:
    """Compile the pipeline of ``loader`` so that it decodes at the scale that each crop allows."""
    compile_loader(loader, decode="scaled", placement="none", **settings)


@final
class Decode(Lever):
    name = "decode"
    pillar = "data"
    stage = Stage.DATA
    guarantee = Guarantee.CLOSE
    moves = frozenset({Bound.DATA})
    usual_gain = 1.3
    conflicts = frozenset({"placement"})

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, "exact", "scaled")

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        """Whether there are JPEGs is seen when the dataset is read."""

    def apply(self, run: Run, option: Option) -> None:
        if option == "scaled":
            decode_scaled(run.loader, device=run.device)
        else:
            compile_loader(run.loader, decode="exact", placement="none", device=run.device)
