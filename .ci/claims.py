"""Write the table of claims, notebooks/evidence/README.md, from the committed outputs of the notebooks, never by hand.

An experiment prints a line such as `C01: Dice 0.93 with skips, 0.92 without`; that line is the row.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "notebooks" / "evidence" / "README.md"
LINE = re.compile(r"^(C\d\d): +(\S.*?) *$", re.MULTILINE)
CLAIMS = {
    "C01": "skips carry fine detail to the decoder, so borders land precisely",
    "C02": "skips matter for denoising too",
    "C03": "predicting the noise, the clean image, or the previous image is the same knowledge",
    "C04": "one network serves every noise level because it is told the time",
    "C05": "convolutions see local detail; depth and attention add the whole picture",
    "C06": "convolution scales better with resolution than a pure transformer",
    "C07": "GroupNorm suits small batches better than BatchNorm",
    "C08": "self-attention relates distant regions",
    "C09": "cross-attention looks at the right place for each word",
    "C10": "a frozen text encoder hands 77×768 embeddings to every level",
    "C11": "other conditions go in by concatenation or attention",
    "C12": "Stable Diffusion's U-Net is far deeper than 2015's",
    "C13": "the same network turns from masks to noise by changing head and loss",
    "C14": "512×512×3 becomes 64×64×4: 48 times fewer numbers",
    "C15": "in the latent space, training and sampling get faster and smaller",
    "C16": "it fits a consumer GPU",
    "C17": "the autoencoder keeps structure and drops detail nobody misses",
    "C18": "the latent space is smoother",
    "C19": "the same compute gives better samples",
    "C20": "it generalises instead of memorising",
    "C21": "attention cost grows with the square of the number of pixels",
    "C22": "text conditioning is affordable there",
    "C23": "LoRA, DreamBooth and ControlNet become practical",
    "C24": "the price: fine texture, thin lines and small text are lost",
    "C25": "a larger U-Net and a better autoencoder ease it (SDXL)",
    "C26": "the price: a good autoencoder must be trained first",
}

ABOUT = """\
# What the experiments say

The popular answer to the course's two questions is a list of claims. Each was put to an experiment. A row is printed by
the notebook that it links to: a lesson, or the evidence behind a lesson, where the seeds and the controls are. What it
is worth is said there: some claims hold, some only in part, some could not be shown.

**Live or recorded.** What a row says is computed when its notebook runs, on networks trained there or on those that
ship with the package. C19 and C26 compare trainings of hours: in C19 new samples are drawn and scored live; its curves,
and C26 but for one figure, are read from the records of the checkpoints, which `minildm train` writes. C08 is recorded
in part: two long trainings are read from a record, whom the shipped network attends to is measured live. C23 is read
from the record that `minildm train adapters` writes, C01 from the one of `minildm train skips`. C02, C04 and C13 are
read from the one of `minildm train denoiser-arms`, but for what C04 says of the shipped network. Reconstructed times
are recorded steps, times CPU seconds a step measured live. Where another row leans on a record, it says so.
[Clouds](06_clouds.ipynb) have no row here; what they compare is read from the records of `minildm train clouds` and
`easy-latents`.

**Units.** Dice and border F1 run from 0 to 1, higher is better. Error of v is a mean square, lower is better. Kernel
distance is from a set of pictures to real ones, lower is better.

**Intervals.** Brackets are 95 % intervals, but for C01, C06, C07, C17 and C18, where they are the lowest and the
highest of three or four runs; in C01, of three pairs of runs with the same seed. ± is two things. In C02, C04 and C13
it is ± SD of three seeds, the standard deviation of what three trainings gave: it says how far single runs differ, and
is no interval of their mean. In C08, C19, C20 and C23 it is one standard error; a 95 % interval is about twice as wide.
The two shares of C18 are of 64 pairs each, and no interval was computed for them.
"""


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """(claim, notebook, what was measured) of every claim that the notebooks in a folder print, in order.

    The notebook is its path in there: a lesson's, or that of its evidence. Raises ValueError for a claim that is not
    in the list.
    """
    found = []
    for path in sorted([*folder.glob("*.ipynb"), *folder.glob("evidence/*.ipynb")]):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if output.get("name") == "stdout":
                    found += [
                        (claim, path.relative_to(folder).as_posix(), text)
                        for claim, text in LINE.findall("".join(output["text"]))
                    ]
    if unknown := sorted({claim for claim, *_ in found} - CLAIMS.keys()):
        raise ValueError(f"a notebook prints {', '.join(unknown)}, which .ci/claims.py does not list")
    return sorted(found, key=lambda row: (row[0], Path(row[1]).name, row[1]))


def page(found: list[tuple[str, str, str]]) -> str:
    """The whole page for these rows."""
    lines = [ABOUT, "| | the popular claim | measured | in |", "|---|---|---|---|"]
    for claim, name, text in found:
        measured, title = text.replace("|", "\\|"), Path(name).name[:2]
        link = Path(name).name if name.startswith("evidence/") else f"../{name}"
        where = f"evidence {title}" if name.startswith("evidence/") else f"lesson {title}"
        lines.append(f"| {claim} | {CLAIMS[claim]} | {measured} | [{where}]({link}) |")
    missing = sorted(CLAIMS.keys() - {claim for claim, *_ in found})
    rest = ["", f"Not measured yet: {'; '.join(f'{claim}, {CLAIMS[claim]}' for claim in missing)}."] if missing else []
    return "\n".join([*lines, *rest, ""])


def main() -> None:
    """Bring the page up to date."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    new = page(rows(ROOT / "notebooks"))
    if new != old:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(new, encoding="utf-8")
        print("notebooks/evidence/README.md: the table of claims is new")


if __name__ == "__main__":
    main()
