"""Writing files so that a failure says which file, and what to do: the engine's name for
data.files."""

from data.files import write_whole, writing

__all__ = ["write_whole", "writing"]
