"""Schedule-free AdamW: an average of the iterates takes the place of a decaying learning rate.

Gradients are taken at a point between the fast iterate and its running average, and the average is what is
evaluated and saved, so no number of steps has to be known in advance. The weights in the model are therefore
two different sets: ``optimizer.train()`` before training steps and ``optimizer.eval()`` before an evaluation
or a save of the final weights swap them in place.

Source: Defazio et al., "The Road Less Scheduled", 2024 (arXiv 2405.15682); the implementation is the authors'
package ``schedulefree``.
"""

from torch.optim.optimizer import Optimizer

from torchspeed.errors import MissingPackage


def schedule_free_class() -> type[Optimizer]:
    """``schedulefree.AdamWScheduleFree``; raises ``MissingPackage`` when the package is absent."""
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError as error:
        raise MissingPackage("schedulefree", extra="optim", why="has schedule-free AdamW") from error
    chosen: type[Optimizer] = AdamWScheduleFree
    return chosen
