"""One process or many under `torchrun`: who is here, and sums over all of them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

# Only one process of each machine computes cached features, while the others wait.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among all that train together: alone, or as `torchrun` started it."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def gathered(self, mine: Sequence[T]) -> list[T]:
        """Everyone's items, first process first."""
        if self.world == 1:
            return list(mine)
        theirs: list[Any] = [None] * self.world
        distributed.all_gather_object(theirs, list(mine))
        return [item for items in theirs for item in items]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the group that `torchrun` describes in the environment, or be alone.

    NCCL connects GPUs, gloo CPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        timeout=_PATIENCE,
        # Without it NCCL guesses a rank's GPU at the first barrier, and warns.
        device_id=torch.device(device) if on_gpu else None,
    )
    try:
        yield Processes(distributed.get_rank(), local_rank, world)
    finally:
        distributed.destroy_process_group()


def device_of_this_process(device: str) -> str:
    """`auto` and `cuda` under `torchrun` are one GPU for each process of a machine."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{local_rank}"
