"""The parent of every configuration: the config is the class."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from danlu.core.errors import RequestError, nearest


class Config(BaseModel):
    """Frozen, typed and keyword-only; a key that the class does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


C = TypeVar("C", bound=Config)


def read_options(cls: type[C], options: Mapping[str, object]) -> C:
    """`cls` made of options that a person gave.

    Raises:
        RequestError: an option that is not known, or a value that does not fit; the first of them.
    """
    try:
        return cls.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "options"
        if first["type"] == "extra_forbidden":
            raise RequestError("there is no such option", where=place, mend=nearest(place, cls.model_fields)) from None
        raise RequestError(f"{first['msg']}, not {first['input']!r}", where=place) from None
