"""Class subsampling: how many of each task, and which."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from cptlite.training.sampling import ClassSampler

CPU = torch.device("cpu")
SIZES = (70, 3, 1, 12)
FIRSTS = (0, 70, 73, 74)


def by_task(classes: torch.Tensor) -> list[list[int]]:
    kept = [each for each in classes.tolist() if each >= 0]
    return [[each for each in kept if first <= each < first + size] for first, size in zip(FIRSTS, SIZES, strict=True)]


@pytest.mark.parametrize(
    ("fraction", "labels", "counts"),
    [
        (0.1, [80], [7, 1, 1, 3]),  # exactly 7 of 70, though 0.1 * 70 is a little more in binary
        (0.1, [0, 1, 2, 2], [10, 1, 1, 2]),
        (0.1, [73, 70, 71, 72], [7, 3, 1, 2]),
        (0.5, [0, 74, 75, 80], [36, 2, 1, 8]),
        (0.07, [0, 1, 1, 1], [7, 1, 1, 1]),
        (1e-12, [0, 74], [2, 1, 1, 2]),
        (1.0, [5], [70, 3, 1, 12]),
    ],
)
def test_of_each_task_those_in_the_batch_and_exactly_a_share_of_the_others(
    fraction: float, labels: list[int], counts: list[int]
) -> None:
    sampler = ClassSampler(SIZES, fraction, len(labels), CPU)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        classes = sampler.draw(torch.tensor(labels), generator)
        assert classes.shape == (sampler.width,)
        tasks = by_task(classes)
        assert [len(each) for each in tasks] == counts
        assert set(labels) <= {each for task in tasks for each in task}
        assert all(len(set(each)) == len(each) for each in tasks)


def test_classes_stand_in_order_or_each_at_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    narrow, wide = ClassSampler(SIZES, 0.1, 4, CPU), ClassSampler(SIZES, 0.1, 400, CPU)
    assert (narrow.width, wide.width) == (4 + 7 + 1 + 1 + 2, sum(SIZES))
    classes = narrow.draw(torch.tensor([3, 3, 3, 3]), generator)
    assert classes.tolist() == [*sorted(set(classes.tolist()) - {-1}), -1, -1, -1]
    classes = wide.draw(torch.tensor([3, 80] * 200), generator)
    assert all(each in (-1, place) for place, each in enumerate(classes.tolist()))
    assert sum(map(len, by_task(classes))) == 8 + 1 + 1 + 3


def test_no_batch_has_more_classes_than_there_is_room_for() -> None:
    generator = torch.Generator().manual_seed(0)
    for batch_size in (1, 5, 20, 60):
        for fraction in (0.03, 0.1, 0.34, 0.9):
            sampler = ClassSampler(SIZES, fraction, batch_size, CPU)
            labels = torch.randperm(sum(SIZES), generator=generator)[:batch_size]
            present = [len(each) for each in by_task(labels)]
            wanted = [
                here + -(-round(100 * fraction) * (size - here) // 100)
                for here, size in zip(present, SIZES, strict=True)
            ]
            assert [len(each) for each in by_task(sampler.draw(labels, generator))] == wanted


def test_others_are_drawn_alike_and_by_the_generator_alone() -> None:
    sampler = ClassSampler((12, 4), 0.25, 1, CPU)
    seen: Counter[int] = Counter()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2200):
        seen.update(each for each in sampler.draw(torch.tensor([5]), generator).tolist() if each >= 0)
    assert seen[5] == 2200
    # Three of eleven others, and one of four.
    assert all(abs(seen[each] - 600) < 6 * 21 for each in range(12) if each != 5)
    assert all(abs(seen[each] - 550) < 6 * 21 for each in range(12, 16))
    first, again = (sampler.draw(torch.tensor([5]), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
