"""A folder of diffusers, on disk or from the Hugging Face Hub: of its many files only those that are read."""

import re
from collections.abc import Sequence
from pathlib import Path

from minildm.stable_diffusion import _weights as weights

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NETWORKS = tuple(weights.STEMS)
DESCRIPTIONS = ("model_index.json", *(f"{part}/*.{ending}" for part in PARTS for ending in ("json", "txt")))
ITSELF = ""  # the subfolder of a network that is all of its repository


def find(
    folder_or_repo_id: str | Path,
    variant: str | None = None,
    networks: Sequence[str] = NETWORKS,
    others: Sequence[str] = DESCRIPTIONS,
) -> Path:
    """The folder, downloaded where it is a name like "owner/name": a pipeline, unless it says otherwise.

    networks, others: the subfolders whose weights are wanted, and patterns of the other files that are.
    Raises FileNotFoundError, ImportError.
    """
    folder = Path(folder_or_repo_id)
    if folder.is_dir():
        return folder
    if folder.suffix == ".safetensors":
        how = "load_single_file(file, tokenizer) reads it" if ITSELF not in networks else "name the folder it lies in"
        raise ValueError(f"{folder} is one file: {how}")
    if not isinstance(folder_or_repo_id, str) or not re.fullmatch(r"[\w-]+/[\w.-]+", folder_or_repo_id):
        raise FileNotFoundError(f"there is no folder {str(folder_or_repo_id)!r}, and it is no name like 'owner/name'")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"there is no folder {folder_or_repo_id!r}; to download it: pip install huggingface_hub"
        ) from None
    lacking, wanted = list(networks), list(others)
    try:
        for one in weights.variants(variant):
            wanted += [pattern for part in lacking for pattern in weights.patterns(part, one)]
            folder = Path(snapshot_download(folder_or_repo_id, allow_patterns=wanted))
            lacking = [part for part in lacking if (folder / part).is_dir() and not weights.find(folder / part, one)]
            if not lacking:
                break
    except Exception as error:  # of many kinds, from the network and from the library
        raise FileNotFoundError(
            f"there is no folder {folder_or_repo_id!r}, and it could not be downloaded: are you online, and is it the "
            f"name of a model that you may read? ({error})"
        ) from error
    return folder
