"""The arrays of the tasks: files of a folder that the user brings, or noise to try a task on.

The page docs/evidence.md says where each public set comes from and how to bring it into this form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Arrays = dict[str, NDArray]


@lru_cache
def arrays(folder: Path | None, name: str) -> Arrays:
    """The arrays of `folder/name.npz`; without a folder, a stand-in of the same kind with fewer samples."""
    if folder is None:
        return STAND_INS[name](np.random.default_rng(0))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def missing(folder: Path, names: tuple[str, ...]) -> list[str]:
    """The files that a task needs and the folder lacks."""
    return [f"{name}.npz" for name in names if not (folder / f"{name}.npz").is_file()]


# ---- the stand-ins ----------------------------------------------------------------------------------------------


def digits(train: int, test: int, side: int) -> Callable[[Generator], Arrays]:
    """Images of noise and labels of chance."""

    def stand_in(random: Generator) -> Arrays:
        parts = {"train": train, "test": test}
        images = {f"X_{part}": random.integers(0, 256, (n, side, side), np.uint8) for part, n in parts.items()}
        return images | {f"y_{part}": random.integers(0, 10, n) for part, n in parts.items()}

    return stand_in


def objects(random: Generator) -> Arrays:
    """Counts of visual words, most of them 0."""
    sizes = {"amazon": 958, "caltech10": 1123, "webcam": 295, "dslr": 157}
    counts = {f"X_{domain}": random.poisson(0.3, (n, 800)).astype(np.uint8) for domain, n in sizes.items()}
    return counts | {f"y_{domain}": random.integers(0, 10, n) for domain, n in sizes.items()}


def road_scenes(random: Generator) -> Arrays:
    """Frames of noise, every pixel of any class or void, from three drives."""
    arrays, drives = {}, ("0006R0", "0016E5", "Seq05VD")
    for domain, n in {"day": 90, "dusk": 40}.items():
        arrays[f"X_{domain}"] = random.integers(0, 256, (n, 96, 128, 3), np.uint8)
        arrays[f"y_{domain}"] = random.integers(0, 12, (n, 96, 128), np.uint8)
        arrays[f"name_{domain}"] = np.array([f"{drives[i % 3]}_{i:05}.png" for i in range(n)])
    return arrays


def mouse(random: Generator) -> Arrays:
    """Two views of noise, one keypoint in twenty without a label."""
    arrays = {}
    for view in ("top", "bot"):
        arrays[f"X_{view}"] = random.integers(0, 256, (90, 64, 128), np.uint8)
        keypoints = random.uniform((0, 0), (128, 64), (90, 7, 2)).astype(np.float32)
        keypoints[random.random((90, 7)) < 0.05] = np.nan
        arrays[f"kp_{view}"] = keypoints
    return arrays


def engines(conditions: int) -> Callable[[Generator], Arrays]:
    """Eighty engines, each with 150 cycles of noise until it fails, or 50 cycles before."""

    def stand_in(random: Generator) -> Arrays:
        made: Arrays = {}
        for part, left in (("train", 0), ("test", 50)):
            cycles, size = np.tile(np.arange(1, 151), 80), 80 * 150
            made |= {
                f"{part}_unit": np.repeat(np.arange(1, 81), 150),
                f"{part}_cycle": cycles,
                f"{part}_settings": random.integers(0, conditions, (size, 3)).astype(np.float32),
                f"{part}_sensors": random.normal(size=(size, 21)).astype(np.float32),
                f"{part}_rul": (150 + left - cycles).astype(np.float32),
            }
        return made

    return stand_in


STAND_INS: dict[str, Callable[[Generator], Arrays]] = {
    "mnist": digits(2500, 500, 28),
    "usps": digits(2500, 500, 16),
    "office_caltech10_surf": objects,
    "camvid_day_dusk": road_scenes,
    "mouse_keypoints": mouse,
    **{f"cmapss_FD00{fleet}": engines(conditions) for fleet, conditions in enumerate((1, 6, 1, 6), start=1)},
}
