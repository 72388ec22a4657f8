"""Shows the indented blocks of docstrings as code."""

import re
from typing import Any

import griffe

BLOCK = re.compile(r"(?<=\n\n)(?: {2,}.*(?:\n|$))+")


class IndentedCode(griffe.Extension):
    """Indents a block that follows an empty line by four spaces, which Markdown takes for code.

    Our docstrings indent a block by two spaces.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of an object before it is parsed."""
        if obj.docstring:
            obj.docstring.value = BLOCK.sub(
                lambda block: re.sub(r"(?m)^(?=.)", "  ", block[0]), obj.docstring.value
            )
