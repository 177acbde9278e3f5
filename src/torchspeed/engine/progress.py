"""The terminal during a training: what is trained on what, a bar, and a line per evaluation.

The display is drawn at most twice a second and only when the loop reports, never from a thread of its own: a thread
that redraws ten times a second takes the interpreter away from the steps.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from torchspeed.engine.events import Evaluated, Event, Finished, Saved, Started, StepLogged

REDRAW_SECONDS = 0.5
PLAIN_SECONDS = 30.0


class Terminal:
    """A sink for people. On a terminal a live bar; into a file or pipe a line every half minute."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self.bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,
            transient=True,
        )
        self.task: TaskID | None = None
        self.drawn = 0.0
        self.last: tuple[int, float] | None = None
        self.total = self.batch_size = 0

    def handle(self, event: Event) -> None:
        if isinstance(event, Started):
            self.start(event)
        elif isinstance(event, StepLogged):
            self.log(event)
        elif isinstance(event, Evaluated):
            goal = "" if event.goal_reached is None else "  goal reached" if event.goal_reached else ""
            loss = "" if event.metric == "loss" else f"  loss {event.loss:.4f}"
            self.say(
                f"step {event.step:>6}  epoch {event.epoch:5.2f}  {event.metric} {event.value:.4f}{loss}"
                f"  {event.seconds:.1f} s{goal}"
            )
        elif isinstance(event, Finished):
            self.finish(event)
        elif isinstance(event, Saved) and event.stalled > 1.0:
            self.say(f"step {event.step:>6}  checkpoint took {event.stalled:.1f} s")

    def start(self, event: Started) -> None:
        self.say(event.machine)
        self.say(f"job: {event.name}, {event.total_steps} steps; goal: {event.goal}")
        for note in event.notes:
            self.say(note)
        self.say(f"run directory: {event.run_dir}")
        self.total, self.batch_size = event.total_steps, event.batch_size
        self.last = (event.first_step, time.perf_counter())
        self.drawn = self.last[1] if not self.console.is_terminal else 0.0
        if self.console.is_terminal:
            self.task = self.bar.add_task("", total=event.total_steps, completed=event.first_step)
            self.bar.start()

    def log(self, event: StepLogged) -> None:
        now = time.perf_counter()
        if self.last is None or now - self.drawn < (REDRAW_SECONDS if self.task is not None else PLAIN_SECONDS):
            return
        steps_per_second = (event.step - self.last[0]) / max(now - self.last[1], 1e-9)
        self.drawn, self.last = now, (event.step, now)
        text = (
            f"{event.step}/{self.total}  loss {event.loss:.4f}  lr {event.learning_rate:.2e}  "
            f"{_rate(steps_per_second)} steps/s  {_rate(steps_per_second * self.batch_size)} samples/s"
        )
        if self.task is None:
            left = (self.total - event.step) / max(steps_per_second, 1e-9)
            self.say(f"{text}  {left:.0f} s left")
        else:
            self.bar.update(self.task, completed=event.step, description=text)
            self.bar.refresh()

    def finish(self, event: Finished) -> None:
        result = event.result
        reached = result["goal_reached"]
        self._stop_bar()
        if result["value"] is not None:
            goal = "" if reached is None else f" (goal {result['goal']}: {'reached' if reached else 'not reached'})"
            self.say(f"{result['metric']} {result['value']:.4f}{goal}")
        to_goal = result["seconds_to_goal"]
        self.say(
            f"{result['steps']} steps in {result['seconds']:.1f} s, {_rate(result['samples_per_second'])} samples/s"
            + ("" if to_goal is None else f", goal after {to_goal:.1f} s")
        )
        self.say(f"run directory: {result['run_dir']}")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def _stop_bar(self) -> None:
        if self.task is not None:
            self.bar.stop()

    def close(self) -> None:
        self._stop_bar()


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
