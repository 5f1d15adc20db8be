"""Which process this is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """This process among all."""

    rank: int = 0
    world: int = 1

    def chunk(self, n: int) -> slice:
        """This process's contiguous part of n rows; parts differ by at most one row."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)
