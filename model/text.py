"""Text from outside, such as class and file names, without characters that a terminal obeys."""


def escape_controls(text: str) -> str:
    """Replace control characters by their escapes.

    They are line ends, tabs, commands to a terminal, and marks that turn the direction of writing.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def to_one_line(text: str) -> str:
    """Replace white space by single spaces, and control characters by their escapes."""
    return escape_controls(" ".join(text.split()))
