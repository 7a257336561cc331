"""danlu (丹炉): takes a large model through its whole life from one recipe."""

__version__ = "0.1.0"
