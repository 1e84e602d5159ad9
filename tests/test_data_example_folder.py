import numpy as np
import pytest

from minildm import data
from minildm.data.example_folder import write_odd_files, write_pictures
from minildm.images import read


def test_the_folder_holds_two_classes_of_which_one_is_wide_and_one_transparent(tmp_path):
    folder = write_pictures(tmp_path / "pictures")
    rows = data.images(folder, size=16)
    assert rows.features["label"].names == ["faces", "flags"]
    assert [rows["label"].count(k) for k in (0, 1)] == [92, 259]
    face, flag = (read(next((folder / kind).iterdir())) for kind in ("faces", "flags"))
    assert face.size == (96, 96) and face.getpixel((0, 0))[3] == 0
    assert flag.width > 1.3 * flag.height


def test_odd_files_are_read_upright_on_white_and_the_damaged_one_is_named(tmp_path):
    folder = write_odd_files(tmp_path / "odd")
    with pytest.warns(UserWarning, match="1 of 5 files could not be read: e_damaged.png"):
        rows = data.images(folder, size=64)
    transparent, turned, wide, grey = (np.asarray(row["image"]).astype(float) for row in rows)
    assert np.abs(transparent - turned).mean() < 4  # JPEG
    assert np.abs(transparent - grey).mean() < 12 and (grey[..., 0] == grey[..., 2]).all()
    assert (transparent[0, 0] == 255).all() and not (wide[0] == 255).all()
