import pytest
import torch

from minildm import checks


def good_retrieval(text, image):
    """Caption by caption."""
    found = 0
    for i, one in enumerate(text):
        likeness = [float(one @ other / other.norm() / one.norm()) for other in image]
        found += likeness.index(max(likeness)) == i
    return found / len(text)


def good_share(maps, masks):
    """Map by map."""
    return torch.stack([one[mask].sum() / one.sum() for one, mask in zip(maps, masks, strict=True)])


@pytest.mark.parametrize("check, answer", [(checks.retrieval, good_retrieval), (checks.share_inside, good_share)])
def test_right_answers_pass(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith(f"✓ {check.__name__}: ")


def found(text, image):
    return torch.cosine_similarity(text[:, None], image[None], dim=2)


def hits(likeness, axis=1):
    return likeness.argmax(axis) == torch.arange(len(likeness))


@pytest.mark.parametrize(
    "check, wrong, hint",
    [
        (checks.retrieval, lambda t, i: hits(t @ i.T).double().mean(), "a long one is found by everybody"),
        (checks.retrieval, lambda t, i: hits(found(t, i), 0).double().mean(), "each picture finds its caption"),
        (checks.retrieval, lambda t, i: hits(found(t, i)).sum(), "how many, not which share"),
        (checks.retrieval, lambda t, i: hits(found(t, i)), "not an answer for each"),
        (checks.retrieval, lambda t, i: hits((t / t.norm(dim=0)) @ (i / i.norm(dim=0)).T).double().mean(), "dim=0"),
        (checks.retrieval, lambda t, i: torch.cosine_similarity(t, i).mean(), "mean cosine of the pairs"),
        (checks.share_inside, lambda m, k: (m * k).mean((1, 2)), "a mean over all places"),
        (checks.share_inside, lambda m, k: (m * k).mean((1, 2)) / m.sum((1, 2)), "a mean divided by a sum"),
        (checks.share_inside, lambda m, k: (m * k).sum((1, 2)) / m.mean((1, 2)), "a sum divided by a mean"),
        (checks.share_inside, lambda m, k: (m * k).sum((1, 2)), "divide by all of the map"),
        (checks.share_inside, lambda m, k: (m * k).sum((1, 2)) / k.sum((1, 2)), "divided by the mask's area"),
        (checks.share_inside, lambda m, k: (m * k).sum((1, 2)) / (m * ~k).sum((1, 2)), "by what lies outside"),
        (
            checks.share_inside,
            lambda m, k: (m * k).sum((1, 2)) / k.sum((1, 2)) / m.mean((1, 2)),
            "larger .* inside than on average",
        ),
        (checks.share_inside, lambda m, k: ((m * k).sum() / m.sum()).expand(len(m)), "one share for each map"),
        (checks.share_inside, lambda m, k: k.double().mean((1, 2)), "share of the places"),
        (checks.share_inside, lambda m, k: 1 - good_share(m, k), "share outside"),
    ],
)
def test_a_known_mistake_is_named(check, wrong, hint):
    with pytest.raises(AssertionError, match=f"likely: .*{hint}"):
        check(wrong)
