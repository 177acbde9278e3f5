"""From a job and a plan to a trained model: build, loop, evaluate, checkpoint, guard."""
