"""Skips single steps whose gradient would do harm."""

from pydantic import Field

from danlu.control.base import Controller


class SkipSteps(Controller):
    """Leaves a step out, weights and optimiser untouched, when its loss or its gradient's norm is no number, or when

        z(norm) > z  and  ( norm > alone · peak   or   z(loss) > z and both norm and loss > together · their peaks )

    z is the robust distance from the running level (`maths/outliers`), peak the largest value of late (it fades by half
    in 350 steps). What has not happened before in the run, by far, is skipped, nothing else: a hard example in a well
    trained model gives a large gradient too, and has something to teach. The engine asks these rules on the device at
    every step, and journals each skipped step with the examples of its batch.
    """

    z: float = Field(default=6.0, gt=0)
    """robust standard deviations"""
    alone: float = Field(default=10.0, gt=1)
    """how far above its peak the norm must stand when the loss says nothing"""
    together: float = Field(default=3.0, gt=1)
    """how far above their peaks both must stand"""
    at_least: int = Field(default=20, ge=1)
    """steps before anything but what is no number is skipped"""
    most_in_row: int = Field(default=5, ge=1)
    """outliers in a row after which they are taken for the new normal"""
