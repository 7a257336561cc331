"""The parent of every configuration: the config is the class."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, typed and keyword-only; a key that the class does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)
