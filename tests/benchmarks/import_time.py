"""What `import adaption` costs beside `import torchmetrics`: run by `nox -s build`, in an environment of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys

LIMIT = 0.2  # seconds
ROUNDS = 5


def own_seconds(package: str) -> tuple[float, float]:
    """Seconds that an import takes in a fresh process, and those of adaption's own modules."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {package}"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    rows = [line.removeprefix("import time:").split("|") for line in report.splitlines() if "|" in line][1:]
    total = next(float(cumulative) for _, cumulative, name in rows if name.strip() == package)
    own = sum(float(seconds) for seconds, _, name in rows if name.strip().split(".")[0] == "adaption")
    return total / 1e6, own / 1e6


def main() -> None:
    """Import both in turn, and fail if our own modules take too long even at their best."""
    taken: dict[str, list[float]] = {"torchmetrics": [], "adaption": []}
    own: list[float] = []
    for _ in range(ROUNDS):
        taken["torchmetrics"].append(own_seconds("torchmetrics")[0])
        total, ours = own_seconds("adaption")
        taken["adaption"].append(total)
        own.append(ours)
    medians = ", ".join(f"import {package}: {statistics.median(times):.2f} s" for package, times in taken.items())
    sys.stdout.write(f"{medians}; adaption's own modules {statistics.median(own):.3f} s, at best {min(own):.3f} s\n")
    if min(own) > LIMIT:
        sys.exit(f"the modules of adaption must be imported within {LIMIT} s.")


if __name__ == "__main__":
    main()
