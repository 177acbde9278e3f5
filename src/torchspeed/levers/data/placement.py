"""Where a compiled pipeline keeps what it computed once: nowhere, in RAM, in a mapped file, on the device.

Physically: a decoded photograph is ten times as large as its JPEG, and reading it back costs memory bandwidth instead
of the processor's time. RAM is read at 10 GB/s per core and more, but each process has its own. A mapped file is there
again at the next start, is shared by all processes, and goes through the page cache, so it needs a fast disk where it
does not fit into memory. Device memory is read at terabytes per second, and nothing has to be copied to the device.
Each wins where it fits, and loses where it does not: the machine swaps, or the device has no room for the model.
Setting it compiles the pipeline. EXACT: the same bytes, wherever they lie.

Source: Leclerc et al., "FFCV: Accelerating training by removing data bottlenecks", CVPR 2023, section 3; the sizes are
measured on samples.
"""

from typing import Any, final

from torchspeed.data.pipeline.compile import compile_loader
from torchspeed.data.pipeline.settings import PLACEMENTS
from torchspeed.errors import NotApplicable
from torchspeed.facts import Facts
from torchspeed.lever import AS_WRITTEN, Bound, Guarantee, Lever, Option, Stage
from torchspeed.machine import Machine, cache_folder
from torchspeed.run import Loader, Run


def place(loader: Loader, placement: str, **settings: Any) -> None:
    """Compile the pipeline of ``loader`` so that what is computed once lies in ``placement``."""
    compile_loader(loader, placement=placement, cache_dir=cache_folder(), **settings)


@final
class Placement(Lever):
    name = "placement"
    pillar = "data"
    stage = Stage.DATA
    guarantee = Guarantee.EXACT
    moves = frozenset({Bound.DATA, Bound.TRANSFER})
    usual_gain = 1.6

    def options(self, facts: Facts, machine: Machine) -> tuple[Option, ...]:
        return (AS_WRITTEN, *(placement for placement in PLACEMENTS if placement != "auto"))

    def check(self, facts: Facts, machine: Machine, option: Option) -> None:
        if option == "device" and machine.device == "cpu":
            raise NotApplicable("there is no device with memory of its own")

    def apply(self, run: Run, option: Option) -> None:
        place(run.loader, str(option), device=run.device)
