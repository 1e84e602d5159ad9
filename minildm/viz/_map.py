"""The course on one page, drawn as the U that it is about."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from minildm.images import Images
from minildm.optional import require

from ._figures import BLUE, GREEN, ORANGE, PURPLE
from ._pictures import Figure, array

JOBS = {"segment": BLUE, "denoise": ORANGE, "paint": GREEN, "judge": PURPLE}


class _Lesson(NamedTuple):
    question: str
    adds: str  # to the U, or around it
    jobs: tuple[str, ...] = ()  # some of JOBS


# Down the left arm, along the bottom, where pictures are smallest, and up the right arm; the last stands between both.
LESSONS = (
    _Lesson("What will we build?", "one U, four jobs", tuple(JOBS)),
    _Lesson("How does a U-Net segment?", "encoder, decoder, skips", ("segment",)),
    _Lesson("What does noise do to an image?", "no network yet: noisy pictures", ("denoise",)),
    _Lesson("How can a U-Net predict noise?", "the time, told to every block", ("denoise",)),
    _Lesson("How does noise become an image?", "a loop around it", ("denoise",)),
    _Lesson("What do attention and GroupNorm buy?", "attention: places ask each other", ("denoise",)),
    _Lesson("Why compress?", "an autoencoder around it", ("paint", "judge")),
    _Lesson("What does the latent space buy?", "a label; codes in place of pixels", ("paint", "judge")),
    _Lesson("How do words steer a picture?", "cross-attention to words", ("paint", "judge")),
    _Lesson("How else can we steer?", "guidance, pictures, masks", ("paint", "judge")),
    _Lesson("How do we teach it something new?", "small additions, U frozen", ("paint", "judge")),
    _Lesson("Is this really Stable Diffusion?", "the same parts, only larger", ("paint",)),
    _Lesson("Can generated images help segmentation?", "nuclei that it painted", ("segment", "paint")),
    _Lesson("Where next?", "flow matching, transformers", ("paint", "judge")),
    _Lesson("What about your pictures?", "you", tuple(JOBS)),
)
_SIDE = 6  # lessons on each arm
_LAST = len(LESSONS) - 1  # the number of the lesson between both arms, for the learner's own work
_WIDTH, _BOTTOM = 8.9, -0.3  # of the map, in inches: its width, and the height at which the bottom of the U lies
_SKIPS = {1: "nuclei again", 3: "the denoiser, taught more", 4: "the loop, steered", 5: "attention, now to words"}


def course_map(pictures: Mapping[int, Images], preparing: Collection[int] = ()) -> Figure:
    """All lessons as a U, each with a picture, its question, what it adds to the U and the jobs; returns the figure.

    pictures: {number of the lesson: any picture that `show` takes, best a square one}.
    preparing: lessons that are not there yet: they are drawn pale.
    """
    plt = require("matplotlib.pyplot")
    figure, axis = plt.subplots(figsize=(_WIDTH, 7.8))
    axis.set(xlim=(0, _WIDTH), ylim=(-0.85, 6.95), aspect="equal")
    axis.axis("off")
    axis.grid(False)
    _band(axis)
    for left, words in _SKIPS.items():
        _skip(axis, left, words)
    for number, lesson in enumerate(LESSONS):
        _node(axis, number, lesson, pictures.get(number), number in preparing)
    for k, (job, colour) in enumerate(JOBS.items()):
        left = _WIDTH / 2 - 2 + 1.05 * k
        axis.plot(left, 6.72, "o", ms=8, color=colour)
        axis.text(left + 0.15, 6.72, job, va="center", fontsize=10)
    return figure


def _place(number):
    """The middle of a lesson's picture, in inches; the arms lean inwards, as the maps of a U grow smaller."""
    if number < _SIDE:
        return 0.55 + 0.1 * number, 6.15 - number
    if number == _LAST:
        return 3.25, 6.15
    if number >= _LAST - _SIDE:
        x, y = _place(_LAST - 1 - number)
        return _WIDTH - x, y
    return _WIDTH / 2 + 2.4 * (number - _SIDE) - 1.3, _BOTTOM


def _band(axis):
    """The U itself, behind everything."""
    path = require("matplotlib.path").Path
    (x, top), (lean, low) = _place(0), _place(_SIDE - 1)
    arm = [(x, top), (lean, low), (lean + 0.1, _BOTTOM), (2.3, _BOTTOM)]
    codes = [path.MOVETO, path.LINETO, path.CURVE3, path.CURVE3, path.LINETO, path.CURVE3, path.CURVE3, path.LINETO]
    shape = path([*arm, *[(_WIDTH - across, height) for across, height in reversed(arm)]], codes)
    patch = require("matplotlib.patches").PathPatch
    axis.add_patch(patch(shape, fill=False, lw=30, ec="0.92", capstyle="round", joinstyle="round", zorder=0))


def _skip(axis, left, words):
    """An arrow across, from what a lesson builds to the lesson that takes it up again."""
    y = _place(left)[1]
    arrow = {"arrowstyle": "->", "color": "0.6", "lw": 1.3}
    axis.annotate("", (_WIDTH / 2 + 1.2, y + 0.25), (_WIDTH / 2 - 1.2, y + 0.25), arrowprops=arrow)
    axis.text(_WIDTH / 2, y + 0.32, words, ha="center", fontsize=9, color="0.45", style="italic")


def _node(axis, number, lesson, picture, pale):
    patches = require("matplotlib.patches")
    x, y = _place(number)
    strength, half = 0.6 if pale else 1, 0.41
    colour = JOBS[lesson.jobs[0]] if len(lesson.jobs) < len(JOBS) else "0.2"
    square = ((x - half, y - half), 2 * half, 2 * half)
    axis.add_patch(patches.Rectangle(*square, fc="white", ec="white", lw=2.2, zorder=1))
    axis.add_patch(patches.Rectangle(*square, fill=False, ec=colour, lw=2.2, alpha=strength, ls=":" if pale else "-"))
    if picture is not None:
        inside = [x - half + 0.03, x + half - 0.03, y - half + 0.03, y + half - 0.03]
        axis.imshow(array(picture), extent=inside, cmap="gray", zorder=2, alpha=strength, aspect="auto")
    at, top, align, step = _beside(number, x, y, half)
    for k, job in enumerate(lesson.jobs):
        axis.plot(at + step * (0.42 + 0.15 * k), top + 0.005, "o", ms=5.5, color=JOBS[job], alpha=strength)
    text = dict(ha=align, va="center", alpha=strength)
    axis.text(at, top, f"{number:02}", fontsize=11, weight="bold", color="0.2", **text)
    axis.text(at, top - 0.23, lesson.question, fontsize=9.5, **text)
    adds = f"+ {lesson.adds}" + (" (in preparation)" if pale else "")
    axis.text(at, top - 0.42, adds, fontsize=9.5, color="0.25", **text)


def _beside(number, x, y, half):
    """Where the words of a lesson begin, on which side, and which way they go: inside the U, and never on it."""
    if number < _SIDE or number == _LAST:
        return x + half + 0.14, y + 0.25, "left", 1
    if _LAST - _SIDE <= number < _LAST:
        return x - half - 0.14, y + 0.25, "right", -1
    return x - half, y + half + 0.57, "left", 1
