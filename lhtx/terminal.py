"""What a console can show. Knows nothing of what is printed."""

from rich.console import Console


def moves_cursor(console: Console) -> bool:
    """Whether the console is a terminal that can draw over what it has drawn; false for a file, a pipe and a notebook."""
    isatty = getattr(console.file, "isatty", None)
    return bool(isatty and isatty()) and not console.is_dumb_terminal


def printable(text: str, console: Console) -> str:
    """`text` with the characters that the console's encoding does not have written as their codes: printing stops no run."""
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)
