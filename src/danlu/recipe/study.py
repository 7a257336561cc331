"""The recipe's `study` section: whose effect to measure, and over how many seeds."""

from typing import Annotated

from pydantic import Field

from danlu.core.config import Config
from danlu.recipe.parts import TechniqueParts


class StudyConfig(Config):
    """A measurement of what techniques do: runs with and without each, paired by seed."""

    techniques: TechniqueParts = ()
    """whose effect to measure, as in the recipe's own `techniques`; all of the recipe's when none is given. Options
    given here are those of the runs with it; otherwise the recipe's, else the usual ones"""
    seeds: Annotated[int, Field(ge=2)] = 5
    """how many seeds, from the recipe's own on; fewer than five see large effects only"""
    workers: Annotated[int, Field(ge=1)] = 1
    """how many runs at once on this machine; with more than one, speeds are disturbed"""
