"""Draw the pictures named on the command line, or all."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pictures import NAMES, draw

for name in sys.argv[1:] or NAMES:
    started = time.perf_counter()
    path = draw(name)
    print(f"{path}  {time.perf_counter() - started:.1f} s  {path.stat().st_size / 1000:.0f} kB")
