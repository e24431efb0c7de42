"""How often the two-sample test rejects, beside a t-test of the batches' values, for `docs/methods/mmd_test.md`.

Run ``python docs/examples/rejections.py``; it prints the rows of the table, in less than a minute.
"""

from __future__ import annotations

import torch
from scipy import stats

from adaption import MaximumMeanDiscrepancyTest

WIDTH, EQUAL, SHIFTED, SHIFT = 16, 400, 150, 0.4


def epoch(batches: int, n: int, m: int, shift: float, draw: torch.Generator) -> tuple[bool, bool, bool]:
    """Whether the test rejects at 5 %, whether a t-test does, and whether the interval holds 0."""
    test, values = MaximumMeanDiscrepancyTest(), []
    for _ in range(batches):
        source, target = torch.randn(n, WIDTH, generator=draw), torch.randn(m, WIDTH, generator=draw)
        target[:, 0] += shift
        values.append(test(source, target)["mmd"].item())
    found = {name: value.item() for name, value in test.compute().items()}
    by_values = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    return found["p_value"] <= 0.05, bool(by_values <= 0.05), found["low"] <= 0 <= found["high"]


def main() -> None:
    """Print the rows, in percent."""
    draw = torch.Generator().manual_seed(1)
    for batches, n, m in ((5, 32, 32), (20, 32, 32), (50, 32, 32), (20, 32, 12)):
        equal = torch.tensor([epoch(batches, n, m, 0, draw) for _ in range(EQUAL)]).double().mean(0)
        shifted = torch.tensor([epoch(batches, n, m, SHIFT, draw) for _ in range(SHIFTED)]).double().mean(0)
        cells = [equal[0], equal[1], equal[2], shifted[0], shifted[1]]
        print(f"| {batches} of {n} + {m} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
