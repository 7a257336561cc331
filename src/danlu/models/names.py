"""Names of weights as transformers knows them."""

import re

_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module)(?=\.)")


def plain_name(name: str) -> str:
    """A weight's name without what compiling or checkpointing a layer put into it."""
    return _WRAPPERS.sub("", name).lstrip(".")
