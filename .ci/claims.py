"""Write the README's table of claims from the committed outputs of the notebooks, never by hand.

An experiment prints a line such as `C01: Dice 0.93 with skips, 0.92 without`; that line is the row.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"
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
Each row is printed by the lesson's own experiment when it runs. The lesson says what it is worth: some claims hold,
some only in part, some could not be shown. (Dice and border F1: from 0 to 1, higher is better. Error of v: mean
squared, lower is better. Kernel distance: from a set of pictures to real ones, lower is better. Ranges in brackets are
95 % intervals.)"""


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


def table(found: list[tuple[str, str, str]]) -> str:
    """The README's section for these rows; nothing when there are none."""
    if not found:
        return ""
    lines = [
        "",
        "## What the experiments say",
        "",
        *ABOUT.splitlines(),
        "",
        "| | the popular claim | measured | lesson |",
        "|---|---|---|---|",
    ]
    for claim, name, text in found:
        measured = text.replace("|", "\\|")
        lines.append(f"| {claim} | {CLAIMS[claim]} | {measured} | [{Path(name).name[:2]}](notebooks/{name}) |")
    missing = sorted(CLAIMS.keys() - {claim for claim, *_ in found})
    rest = ["", f"Not measured yet: {'; '.join(f'{claim}, {CLAIMS[claim]}' for claim in missing)}."] if missing else []
    return "\n".join([*lines, *rest, "", ""])


def updated(readme: str, found: list[tuple[str, str, str]]) -> str:
    """The README's text with its table of claims made anew; ValueError when the marks are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(found)}{END}{after}"


def main() -> None:
    """Bring README.md up to date."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = updated(old, rows(ROOT / "notebooks"))
    if new != old:
        readme.write_text(new, encoding="utf-8")
        print("README.md: the table of claims is new")


if __name__ == "__main__":
    main()
