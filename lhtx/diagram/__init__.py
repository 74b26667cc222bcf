"""What a network is made of: a table of its modules and a picture of its blocks. `python -m lhtx.diagram [overrides]`."""

from lhtx.diagram.drawing import draw
from lhtx.diagram.trace import Block, Part, Trace, trace

__all__ = ["Block", "Part", "Trace", "draw", "trace"]
