"""A tokenizer's folder in the layout of diffusers: what CLIP's files leave unsaid, and who opens which file."""

import json
from collections.abc import Callable
from pathlib import Path

import tokenizers as tk

from minildm import storage

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77  # of CLIP's prompts

_OTHERS = ("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")  # of a tokenizer's folder
_SPECIAL = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read(path: Path) -> tk.Tokenizer:
    """The `tokenizers.Tokenizer` in a file of that library. Raises FileNotFoundError, ValueError."""
    return _read(path, tk.Tokenizer.from_file)


def read_folder(path: Path) -> tuple:
    """A `tokenizers.Tokenizer`, its length and the id of its padding (None: not said). As `read`."""
    config = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # the second overrules, as in transformers
        config |= _json(path / name)
    for key in ("padding_side", "truncation_side"):
        if config.get(key, "right") != "right":
            raise ValueError(f"{path}: {key} is {config[key]!r}, which minildm does not support: expected 'right'")
    bpe = read(path / "tokenizer.json") if (path / "tokenizer.json").is_file() else _clip(path, config)
    _add(bpe, config, path)
    length = config.get("model_max_length", LENGTH)
    if isinstance(length, bool) or not isinstance(length, int | float) or length < 2:
        raise ValueError(
            f"{path / 'tokenizer_config.json'}: expected model_max_length as a number from 2, for start and end of a "
            f"text, got {length!r}"
        )
    pad = config.get("pad_token") and _id(bpe, _content(config["pad_token"]), path)
    return bpe, length if length < 1e6 else LENGTH, pad  # transformers writes 1e30 where it knows none


def write_folder(path: Path, bpe: tk.Tokenizer, start: int, end: int) -> Path:
    """Write a `tokenizers.Tokenizer`, which truncates and pads, so that transformers opens it; returns the path.

    Raises FileExistsError as `storage.folder` does.
    """
    like_clip = getattr(bpe.model, "end_of_word_suffix", None)
    config = {
        "tokenizer_class": "CLIPTokenizer" if like_clip else "PreTrainedTokenizerFast",
        "model_max_length": bpe.truncation["max_length"],
        "bos_token": bpe.id_to_token(start),
        "eos_token": bpe.id_to_token(end),
        "unk_token": bpe.id_to_token(end),
        "pad_token": bpe.padding["pad_token"],
    }
    with storage.folder(path, index="tokenizer_config.json", own=_OTHERS) as new:
        bpe.save(str(new / "tokenizer.json"))
        bpe.model.save(str(new))  # vocab.json and merges.txt, for older programs
        storage.write_text(new / "tokenizer_config.json", json.dumps(config, indent=2))
    return path


def _clip(folder: Path, config: dict):
    """CLIP's tokenizer from vocab.json and merges.txt, put together as transformers does."""
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has neither tokenizer.json nor {name}: expected a tokenizer's folder")
    if (kind := config.get("tokenizer_class", "CLIPTokenizer")) not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise ValueError(f"{folder}: a {kind} is read from its tokenizer.json, which is missing")
    vocab, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    try:
        bpe = tk.Tokenizer(tk.models.BPE.from_file(vocab, merges, unk_token=END, end_of_word_suffix="</w>"))
    except Exception as error:
        raise ValueError(f"{vocab} is damaged, or merges.txt beside it: {error}") from error
    bpe.normalizer = tk.normalizers.Sequence(
        [tk.normalizers.NFC(), tk.normalizers.Replace(tk.Regex(r"\s+"), " "), tk.normalizers.Lowercase()]
    )
    words = tk.pre_tokenizers.Split(tk.Regex(_WORDS), "removed", invert=True)
    bpe.pre_tokenizer = tk.pre_tokenizers.Sequence([words, tk.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = tk.decoders.ByteLevel()
    special = {key: config.get(key) or token for key, token in _SPECIAL.items()}
    ids = {key: (_content(token), _id(bpe, _content(token), folder)) for key, token in special.items()}
    bpe.add_special_tokens([_flagged(token, normalized=False) for token in special.values()])
    bpe.post_processor = tk.processors.RobertaProcessing(
        ids["eos_token"], ids["bos_token"], trim_offsets=False, add_prefix_space=False
    )
    return bpe


def _add(bpe: tk.Tokenizer, config: dict, folder: Path):
    """Tokens that were added to a vocabulary later, such as those of textual inversion, wherever a folder names them.

    As in transformers, those with a number of their own come first.
    """
    extra = [config.get(key) or [] for key in ("extra_special_tokens", "additional_special_tokens")]
    extra = [token for found in extra for token in (found.values() if isinstance(found, dict) else found)]
    try:
        numbered = {int(i): _flagged(token, True) for token, i in _json(folder / "added_tokens.json").items()}
        numbered |= {int(i): _flagged(token, False) for i, token in config.get("added_tokens_decoder", {}).items()}
        new = [numbered[i] for i in sorted(numbered)] + [_flagged(token, False) for token in extra]
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: its added tokens are damaged: {error!r}") from error
    bpe.add_tokens([token for token in new if bpe.token_to_id(token.content) is None])
    for i, token in numbered.items():
        if (found := bpe.token_to_id(token.content)) != i:
            raise ValueError(f"{folder}: the added token {token.content!r} is said to be {i}, but it is {found}")


def _flagged(token: str | dict, normalized: bool):
    """A token with how it is looked for in a text; `normalized` where it does not say: after that was normalised."""
    record = token if isinstance(token, dict) else {"content": token, "normalized": normalized}
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return tk.AddedToken(record["content"], **{k: record[k] for k in known[1:] if k in record})


def _json(path: Path) -> dict:
    """The names and values in a file; none where it is not there."""
    found = _read(path, lambda file: json.loads(Path(file).read_text(encoding="utf-8"))) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged or of another format: expected names and values")
    return found


def _content(token: str | dict) -> str:
    """In these files a special token is a text, or a record that holds it."""
    return token["content"] if isinstance(token, dict) else token


def _id(bpe, token: str, folder: Path) -> int:
    if (found := bpe.token_to_id(token) if isinstance(token, str) else None) is None:
        raise ValueError(f"{folder}: the special token {token!r} is not in the vocabulary")
    return found


def _read(path: Path, reader: Callable):
    """What the reader makes of a file; its errors, often bare Exceptions that name no file, become ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer file {path}")
    try:
        return reader(str(path))
    except Exception as error:
        raise ValueError(f"{path} is damaged or of another format: {error}") from error
