"""``nn.DataParallel``: one process that drives all GPUs, and hands out the model anew at every step.

Each forward pass copies all parameters from the first GPU to the others, and outputs and gradients come back to the
first one, whose memory fills first. One Python process issues the work of all GPUs, one at a time under its lock.
DistributedDataParallel has a process per GPU, keeps the copies, and adds up gradients while the backward pass goes on.
Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html (which recommends the other).
"""

from collections.abc import Iterator

from torch import nn

from torchspeed.measure.advice.subject import Advice, Subject


def data_parallel(subject: Subject) -> Iterator[Advice]:
    for name, module in subject.run.model.named_modules():
        if not isinstance(module, nn.DataParallel):
            continue
        size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
        count = len(module.device_ids) or (subject.machine.device_count if subject.machine.device == "cuda" else 0)
        written = next((call.place for call in subject.sources.calls("DataParallel")), "")
        copied = f"{size / 1e6:.3g} MB of parameters"
        yield Advice(
            "data_parallel",
            written or subject.line_of(name),
            f"DataParallel around {type(module.module).__name__}",
            f"every step copies {copied} to each of {count - 1} other GPUs, and one process drives all {count}"
            if count > 1
            else f"it does nothing on {count or 'no'} GPU; with more, every step copies {copied} to each",
            "take it off and start one process per GPU with DistributedDataParallel "
            f"(torchrun --nproc-per-node {count if count > 1 else 'N'})",
        )
