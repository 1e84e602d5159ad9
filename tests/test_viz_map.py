"""The map of the course."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minildm import viz

ROOT = Path(__file__).parents[1]


@pytest.fixture
def axis():
    pictures = {number: np.full((2, 2, 3), number / 20) for number in range(15) if number != 12}
    (axis,) = viz.course_map(pictures, preparing={10, 12}).axes
    yield axis
    plt.close("all")


def middle(image):
    left, right, bottom, top = image.get_extent()
    return (left + right) / 2, (bottom + top) / 2


def numbered(axis):
    return {int(text.get_text()): text for text in axis.texts if re.fullmatch(r"\d\d", text.get_text())}


def test_every_lesson_of_the_readme_is_there(axis):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    questions = dict(re.findall(r"^\| (\d\d) \| \[(.*?)\]", readme, re.MULTILINE))
    assert sorted(numbered(axis)) == [int(number) for number in questions]
    assert set(questions.values()) <= {text.get_text() for text in axis.texts}


def test_no_words_lie_on_others():
    with plt.rc_context():
        viz.style()
        (axis,) = viz.course_map({}).axes
        axis.figure.canvas.draw()
    texts = [text for text in axis.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    for k, box in enumerate(boxes):
        assert not [texts[k + 1 + i].get_text() for i, one in enumerate(boxes[k + 1 :]) if box.overlaps(one)], texts[k]
    plt.close("all")


def test_each_picture_stands_beside_its_number(axis):
    pictures = {round(float(image.get_array()[0, 0, 0]) * 20): middle(image) for image in axis.get_images()}
    assert sorted(pictures) == [number for number in range(15) if number != 12]
    for number, (x, y) in pictures.items():
        words = numbered(axis)[number].get_position()
        assert abs(words[0] - x) < 0.7 and abs(words[1] - y) < 1.1
        others = [other for other in numbered(axis).values() if other is not numbered(axis)[number]]
        away = [np.hypot(x - other.get_position()[0], y - other.get_position()[1]) for other in others]
        assert min(away) > np.hypot(x - words[0], y - words[1])


def test_it_is_a_u_and_skips_run_level_across(axis):
    places = {number: text.get_position()[1] for number, text in numbered(axis).items()}
    assert [places[n] for n in range(6)] == sorted((places[n] for n in range(6)), reverse=True)
    assert [places[13 - n] for n in range(6)] == pytest.approx([places[n] for n in range(6)])
    assert max(places[6], places[7]) < places[5]
    assert places[14] == places[0]  # the learner's own, between both arms
    skips = [text for text in axis.texts if getattr(text, "arrow_patch", None)]
    assert len(skips) == 4 and all(skip.xy[1] == skip.get_position()[1] for skip in skips)


def test_what_is_in_preparation_is_pale_and_says_so(axis):
    pale = {number for number, text in numbered(axis).items() if text.get_alpha() < 1}
    assert pale == {10, 12}
    assert sum("in preparation" in text.get_text() for text in axis.texts) == 2
