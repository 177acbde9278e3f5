"""A group of parameters whose learning rate is zero from the start.

Schedules multiply the learning rate that the optimizer was made with: zero stays zero for all of the training. The
gradients are computed all the same. (A warm-up that *starts* at zero multiplies another number by zero for one step.)
Source: https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate.
"""

from collections.abc import Iterator

from torchspeed.measure.advice.subject import Advice, Subject


def learning_rate_zero(subject: Subject) -> Iterator[Advice]:
    groups = subject.run.optimizer.param_groups
    still = [group for group in groups if float(group.get("initial_lr", group.get("lr", 1.0))) == 0.0]
    count = sum(p.numel() for group in still for p in group["params"] if p.requires_grad)
    if count:
        yield Advice(
            "learning_rate_zero",
            subject.job_line("optimizer"),
            "the learning rate is 0" if len(still) == len(groups) else f"the learning rate of {len(still)} group is 0",
            f"{count:,} of {subject.parameters:,} parameters never change",
            "set lr, or freeze them with requires_grad_(False), which saves their gradients too",
        )
