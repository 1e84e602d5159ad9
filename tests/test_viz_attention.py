import matplotlib.pyplot as plt
import pytest
import torch

from minildm import viz


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


KEYS = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]])


def words(axis):
    return [text.get_text() for text in axis.texts]


def test_a_query_is_worked_out_step_by_step():
    figure = viz.attention_by_hand(4 * KEYS, KEYS, torch.tensor([6.0, 1, 0]), ("A: red", "B: blue", "C: empty"))
    table, seen = (words(axis) for axis in figure.axes)
    # Scores 8, 4, 0 over the root of 4; weights e^4, e^2, 1 of their sum, 62.99.
    row = ["A: red", "(1, 0, 0, 1)", "8", "4", "0.867", "6", "5.20"]
    assert table[7:14] == row and "÷ √4" in table and "sum: 5.32" in table
    assert "A: red asks with q = (4, 0, 0, 4)" in table
    assert seen[:3] == ["0.87", "0.12", "0.02"] and seen[6:] == ["0.33"] * 3
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["A", "B", "C"]


def test_another_token_may_ask():
    figure = viz.attention_by_hand(KEYS, KEYS, torch.tensor([3.0, 6, 9]), ("A", "B", "C"), asks=2)
    assert "sum: 6.00" in words(figure.axes[0])  # an empty query hears all alike


@pytest.mark.parametrize(
    "wrong",
    [
        dict(k=KEYS[:2]),
        dict(v=torch.ones(3, 1)),
        dict(names=("A", "B")),
        dict(asks=3),
        dict(q=KEYS[0], k=KEYS[0]),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong):
    given = dict(q=KEYS, k=KEYS, v=torch.ones(3), names=("A", "B", "C")) | wrong
    names, q, k, v = (given.pop(name) for name in ("names", "q", "k", "v"))
    with pytest.raises(ValueError, match=r"expected q and k \(n, d\)"):
        viz.attention_by_hand(q, k, v, names, **given)
