"""Real processes that talk over gloo."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

# A server imports what every test needs, once, and each process is a fork of it.
multiprocessing.set_forkserver_preload(["torch.distributed", "torchmetrics", "adaption"])


def on_ranks(ranks: int, work: Callable[[int, int], Any]) -> list[Any]:
    """What `work(rank, ranks)` returns on each of so many processes; an error on one of them is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_run, (ranks, work, folder), ranks, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(ranks)]


def _run(rank: int, ranks: int, work: Callable[[int, int], Any], folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(work(rank, ranks), f"{folder}/{rank}.pt")
    dist.barrier()  # no rank leaves while another is still talking to it
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads can abort an interpreter that shuts down: github.com/pytorch/pytorch/pull/179291
