import json

import numpy as np
import pytest
import torch

from minildm import data, weights
from minildm.recipes import clinic, nuclei
from minildm.recipes.studies import clinic_arms


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recipes keep their runs in the folder they are started in."""
    monkeypatch.chdir(tmp_path)


def test_what_is_known_ends_where_the_test_begins():
    whole = data.nuclei()[0]
    image, mask = clinic.known()
    assert image.shape == mask.shape == (256, 192) == clinic.SHARES[1.0]
    assert np.array_equal(mask > 0, whole["mask"][::2, :384:2] > 0)
    raw, true = clinic.unseen()
    assert raw[3, 5] == whole["image"][6:8, 394:396].mean() and np.array_equal(true, whole["mask"][:, 384:])
    assert np.array_equal(clinic.strip().mask > 0, true[::2, ::2] > 0)


@pytest.mark.parametrize("share", clinic.SHARES)
def test_a_piece_is_its_share_of_the_known_columns(share):
    known = clinic.known()
    for number in range(8):
        piece, box = clinic.piece(share, number), clinic.place(share, number)
        assert piece.image.size / known.image.size == pytest.approx(share, rel=0.01)
        assert np.array_equal(piece.image, known.image[box]) and np.array_equal(piece.mask > 0, known.mask[box] > 0)
        assert len(np.unique(piece.mask)) == piece.mask.max() + 1
    places = {str(clinic.place(share, number)) for number in range(5)}
    assert len(places) == clinic.PIECES[share]


def test_what_lies_around_a_piece_is_not_in_it(monkeypatch):
    numbered = np.arange(256 * 192).reshape(256, 192)
    monkeypatch.setattr(clinic, "known", lambda: clinic.Pair(numbered, numbered * 0))
    for number in range(5):
        inside = set(clinic.piece(0.1, number).image.ravel().tolist())
        bands = clinic.around(0.1, number)
        outside = [value for pair in bands for value in pair.image.ravel().tolist()]
        assert len(outside) == len(set(outside)) > 0.6 * numbered.size and not inside & set(outside)
        assert all(min(pair.image.shape) >= clinic.SIZE for pair in bands)
    assert clinic.around(1.0) == []


def test_an_unknown_share_is_told():
    with pytest.raises(ValueError, match=r"0\.1, 0\.25, 1\.0"):
        clinic.piece(0.5)


def test_the_signed_depth_turns_back_into_nuclei():
    mask = clinic.piece(0.25, 0).mask
    signed = clinic.signed_depth(mask)
    assert signed.dtype == np.float32 and np.array_equal(signed > 0, mask > 0) and np.abs(signed).max() < 1
    found = clinic.outlined(signed)
    scores = nuclei.scores(mask, found)
    assert found.shape == mask.shape and scores["dice"] > 0.99 and scores["ap50"] > 0.9
    nothing = np.zeros((8, 8), int)
    assert (clinic.signed_depth(nothing) == -1).all() and not clinic.outlined(clinic.signed_depth(nothing)).any()


def test_a_batch_holds_what_was_asked_for():
    def source(value):
        return lambda generator, n: {"image": torch.full((n, 1), value), "depth": torch.full((n,), -value)}

    batch = clinic.mixed(source(1.0), source(2.0), 0.25)(torch.Generator(), 8)
    assert batch["image"][:, 0].tolist() == [1.0] * 6 + [2.0] * 2 and torch.equal(batch["depth"], -batch["image"][:, 0])
    for share, value in ((0, 1.0), (1, 2.0)):
        assert (clinic.mixed(source(1.0), source(2.0), share)(torch.Generator(), 3)["image"] == value).all()
    with pytest.raises(ValueError, match="from 0 to 1"):
        clinic.mixed(source(1.0), source(2.0), 1.5)


def test_every_parameter_of_the_painter_gets_a_gradient_and_belongs_to_one_optimizer():
    net = clinic.network()
    owned = [
        p for one in clinic.optimizers(dict(net.named_parameters())) for g in one.param_groups for p in g["params"]
    ]
    assert len({id(p) for p in owned}) == len(owned) == len(list(net.parameters()))
    clinic.fit(net, clinic.piece(0.1), 1)
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    net(x, torch.tensor([10, 700])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_painter_sees_its_piece_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(clinic, "train", lambda model, batch, *a, **k: seen.append(batch(torch.Generator(), 40)))
    dark = clinic.Pair(np.full((40, 40), -1, np.float32), np.zeros((40, 40), int))
    clinic.fit(clinic.network(), dark, 1)
    assert seen[0]["x_0"].shape == (40, 8, 16, 16) and (seen[0]["x_0"] + 1).abs().max() < 1e-4


def test_painted_pairs_repeat_with_their_seed():
    net = clinic.network()
    one, two = (clinic.painted(net, 3, seed=5, steps=2) for _ in range(2))
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in zip(one, two, strict=True)
    )
    assert one[0].image.shape == one[0].mask.shape == (clinic.SIZE, clinic.SIZE)


def test_the_nearest_is_found_in_root_mean_squares():
    others = torch.stack([torch.zeros(2, 4, 4), torch.ones(2, 4, 4)])
    assert clinic.nearest(torch.full((1, 2, 4, 4), 0.8), others).tolist() == pytest.approx([0.2])


def test_a_segmenter_learns_and_finds_at_full_size():
    crops = clinic.lessons([clinic.piece(0.1)])
    model = clinic.segmenter()
    history = clinic.fit_segmenter(model, crops, 3)
    image, mask = clinic.unseen()
    found = clinic.found(model, image[:64])
    assert len(history.loss) == 3 and found.shape == mask[:128].shape


def small(monkeypatch):
    """Two shares, one step, two pairs."""
    monkeypatch.setattr(clinic, "STEPS", dict.fromkeys(clinic.STEPS, 1))
    monkeypatch.setattr(clinic, "PAINTED", 2)
    monkeypatch.setattr(clinic_arms, "CROPS", 20)
    draw = clinic.draw
    monkeypatch.setattr(clinic, "draw", lambda model, n, seed=0, steps=15: draw(model, n, seed, 2))


def test_clinic_writes_a_checkpoint_with_its_record(tmp_path, monkeypatch):
    small(monkeypatch)
    path = clinic.run(tmp_path / "c.safetensors")
    assert weights.load(path).config == clinic.network().config and path.stat().st_size < 800_000
    assert weights.record(path)["recipe"] == "clinic" and "10%" in weights.record(path)["data"]


def test_a_figure_is_measured_once_and_kept(tmp_path, monkeypatch):
    small(monkeypatch)
    first = clinic_arms.row("painted", 0.1, 1, steps=1)
    assert (first["arm"], first["share"], first["number"]) == ("painted", 0.1, 1) and 0 <= first["ap50"] <= 1
    folder = tmp_path / "runs" / "clinic-arms"
    assert {file.name for file in folder.iterdir()} == {"painter-0.1-1.safetensors", "painted-0.1-1-1.json"}
    (folder / "painted-0.1-1-1.json").write_text(json.dumps(first | {"ap50": 7}))
    assert clinic_arms.row("painted", 0.1, 1, steps=1)["ap50"] == 7
    assert clinic_arms.row("painted", 0.1, 1, steps=1, resume=False) == first


def test_the_arms_of_a_clinic_begin_alike_and_differ_in_their_pairs_alone(monkeypatch):
    seen = {}

    def fit(model, batch, steps, seed, batch_size):
        seen[arm] = model.stem.weight.detach().clone(), batch(torch.Generator(), batch_size)["image"], seed

    monkeypatch.setattr(clinic, "fit_segmenter", fit)
    monkeypatch.setattr(clinic, "found", lambda model, image: clinic.unseen()[1])
    for arm in ("real", "half", "pasted"):
        assert clinic_arms.row(arm, 0.1, 2, steps=1, resume=False)["ap50"] == 1
    first, crops, seeds = zip(*seen.values(), strict=True)
    assert all(torch.equal(one, first[0]) for one in first) and set(seeds) == {2}
    assert [len(one) for one in crops] == [8, 4, 8] and not torch.equal(crops[0], crops[2])


def test_the_table_goes_into_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(clinic_arms, "row", lambda arm, *more: {"arm": arm, "number": more[1]})
    monkeypatch.setattr(clinic_arms, "copies", lambda share, number, *more: {"share": share, "number": number})
    record = weights.record(clinic_arms.run(tmp_path / "c.safetensors", seed=4))
    assert len(record["arms"]) == 3 * 4 * clinic_arms.REPLICATES
    assert {row["number"] for row in record["arms"]} == set(range(4, 4 + clinic_arms.REPLICATES))
    assert [row["share"] for row in record["copies"]].count(0.1) == 5 and len(record["copies"]) == 7


def test_real_crops_of_a_piece_count_as_copies(monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr(clinic, "PAINTED", 40)
    monkeypatch.setattr(clinic_arms, "CROPS", 400)
    monkeypatch.setattr(clinic_arms, "painter", lambda *a: None)
    monkeypatch.setattr(clinic, "draw", lambda model, n, seed: clinic.crops([clinic.strip()], n, 9))
    found = clinic_arms.copies(0.1, 0)
    assert found["copies"] > found["painted"] + 0.2  # here the painter "paints" crops of the strip
    assert clinic_arms.copies(1.0, 0)["strangers"] is None


def test_the_shipped_record_holds_the_whole_table():
    record = weights.record("clinic")
    found = [(row["arm"], row["share"], row["number"]) for row in record["arms"]]
    expected = [
        (arm, share, number)
        for arm in clinic_arms.ARMS
        for share in clinic.SHARES
        for number in range(clinic_arms.REPLICATES)
    ]
    assert sorted(found) == sorted(expected)
    assert all(0 <= row[score] <= 1 for row in record["arms"] for score in ("dice", "ap50", "ap75"))
    assert weights.load("clinic").config == clinic.network().config
