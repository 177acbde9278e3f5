"""Ready-made jobs, one file each: the examples that people copy. A plan that was tuned for one lies beside it."""

RECIPES = {
    "digits": "torchspeed.recipes.digits",
    "cifar10": "torchspeed.recipes.cifar10",
    "characters": "torchspeed.recipes.characters",
    "spoken-digits": "torchspeed.recipes.spoken_digits",
}
