"""From a recipe and values for its searched keys to the recipe of one trial."""

import copy
import json
import random
from collections.abc import Mapping

from danlu.core.errors import RequestError
from danlu.core.seeds import seed_of
from danlu.recipe.load import Tree, apply_override, read_tree
from danlu.recipe.recipe import Recipe
from danlu.recipe.tune import Choice, Range

Values = Mapping[str, object]
Axes = Mapping[str, Range | Choice]
NUM_TRIES = 64


def recipe_with(tree: Tree, values: Values) -> Recipe:
    """The recipe with these values in it, sections before what is inside them.

    Raises:
        RequestError: they make no valid recipe.
    """
    laid = copy.deepcopy(tree)
    for key in sorted(values, key=lambda key: key.count(".")):
        apply_override(laid, f"{key}={json.dumps(values[key])}")
    return read_tree(laid)


def check_space(tree: Tree, space: Axes, *, seed: int) -> None:
    """Sees to it that every end of every range, and every entry of every list, can stand in the recipe.

    A value that does not fit the recipe as it is (three heads in a width of 64) may fit other values of the space:
    only when it fits none of a few dozen drawn at random it is refused.

    Raises:
        RequestError: a key or a value is wrong, in one message.
    """
    for key, axis in space.items():
        for end in axis.ends:
            try:
                recipe_with(tree, {key: end})
            except RequestError as error:
                if not _fits_somewhere(tree, space, key, end, seed):
                    raise _refusal(key, end, error) from None


def _fits_somewhere(tree: Tree, space: Axes, key: str, end: object, seed: int) -> bool:
    draw = random.Random(seed_of(seed, "space", key))
    for _ in range(NUM_TRIES if len(space) > 1 else 0):
        values = {other: draw.choice(axis.ends) for other, axis in space.items()} | {key: end}
        try:
            recipe_with(tree, values)
        except RequestError:
            continue
        return True
    return False


def _refusal(key: str, end: object, error: RequestError) -> RequestError:
    where = f"tune.space, {key}={json.dumps(end)}"
    place = f"{error.where}: " if error.where and not error.where.startswith(key) else ""
    return RequestError(f"{place}{error.problem}", where=where, mend=error.mend)
