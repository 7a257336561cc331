"""The engine: plan, stepper, loop, checkpoint. Called as a function, `danlu.train(recipe)`, it is the stage train.

Importing `danlu.train.loop` puts this package under the name `danlu.train`, so the function that people call there
cannot be another object than the package.
"""

import importlib
import sys
import types


class _Callable(types.ModuleType):
    def __call__(self, recipe: object, **options: object) -> object:
        """Trains what a Recipe describes; returns the run's folder. See `danlu.stages.train.train`."""
        # by name, since this floor does not know the stages
        return importlib.import_module("danlu.stages.train").train(recipe, **options)


sys.modules[__name__].__class__ = _Callable
