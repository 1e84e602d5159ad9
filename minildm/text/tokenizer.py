"""Text as numbers: byte-level byte-pair encoding, trained on captions or read from the files of Stable Diffusion.

A text is cut into words and a word into its bytes; then the two neighbours that were seen together most often in
training become one token, again and again. Each of the 256 bytes is a token as well, so that every text has ids: of
Chinese, of emoji, of words that training never saw. The `tokenizers` library does the work.
Sources: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); on bytes, Radford et
al., "Language Models are Unsupervised Multitask Learners" (2019).
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import tokenizers as tk
import torch
from torch import Tensor

from minildm import storage
from minildm.text import _files as files
from minildm.text._files import END, LENGTH, START

# Chinese puts no spaces between words: each of its characters counts as one, or tokens would span whole phrases.
_WORDS = r"\p{Han}| ?[\p{L}&&[^\p{Han}]]+| ?\p{N}| ?[^\s\p{L}\p{N}]+"


class Tokenizer:
    """`tokenizer(texts)` -> ids (b, n) int64, mask (b, n) bool: True from the start token to the end token.

    bpe: a `tokenizers.Tokenizer` that closes each text with an end token. What it says itself about truncation and
        padding is read and then switched off, as both are done here.
    length: n, unless a call says otherwise; None: what bpe says, or 77.
    pad: the id behind the end token; None: what bpe says, or the end token again.

    `start`, `end` and `pad` are ids, `len(tokenizer)` is how many there are. Raises ValueError without an end token.
    """

    def __init__(self, bpe: tk.Tokenizer, length: int | None = None, pad: int | None = None):
        self.length = (bpe.truncation or {}).get("max_length", LENGTH) if length is None else length
        pad = (bpe.padding or {}).get("pad_id") if pad is None else pad
        bpe.no_truncation()
        bpe.no_padding()
        frame = bpe.encode("").ids
        if not frame:
            raise ValueError("expected a tokenizer that closes each text with an end token; set its post_processor")
        self.bpe, self.start, self.end = bpe, frame[0], frame[-1]
        self.pad = self.end if pad is None else pad

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def __call__(self, texts: str | Iterable[str], length: int | None = None) -> tuple[Tensor, Tensor]:
        """The ids and mask of one text or several, each padded or cut to `length`; what is cut keeps its end token.

        Warns of a text that is too long, and quotes what is left out. Raises ValueError for what is not text.
        """
        length = self.length if length is None else length
        if length < 2:
            raise ValueError(f"expected a length from 2, for a start and an end token, got {length}")
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.full((len(texts), length), self.pad)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for i, text in enumerate(texts):
            row = self.encode(text)
            if len(row) > length:
                lost = f"{self.decode(row[length - 1 :])!r} is left out"
                warnings.warn(f"a text has {len(row)} tokens, and only {length} fit: {lost}", stacklevel=2)
                row = [*row[: length - 1], self.end]
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return ids, mask

    def encode(self, text: str) -> list[int]:
        """All ids of one text, the start and the end token included."""
        try:
            return self.bpe.encode(text).ids
        except TypeError:
            raise ValueError(f"expected a text of valid Unicode, got {text!r}") from None

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of some ids, up to the first end token: `decode(encode(text))` is the normalised text.

        Normalised is Unicode's form C in lower case, with one space for each run of spaces. CLIP's files keep no
        spaces either, so there one stands after each word, number and run of signs: "cat's" comes back as "cat 's".
        """
        words = [int(i) for i in takewhile(lambda i: i != self.end, ids) if i != self.start]
        text = self.bpe.decode(words, skip_special_tokens=False)
        if suffix := getattr(self.bpe.model, "end_of_word_suffix", None):
            text = text.replace(suffix, " ")
        return text.strip(" ")

    def save(self, path: str | Path) -> Path:
        """Write it for `load`: as one file where path ends in .json, otherwise as a folder; returns the path.

        The folder is a `tokenizer/` of the diffusers layout, which transformers opens too.
        """
        path, bpe = Path(path), self._complete()
        if path.suffix != ".json":
            return files.write_folder(path, bpe, self.start, self.end)
        return storage.write_text(path, bpe.to_str())  # in one line: less than half as long

    def to_json(self) -> str:
        """All of it as a text, for `from_json`: what `save` writes into one file."""
        return self._complete().to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """From a text that `to_json` made; ValueError for any other."""
        try:
            return cls(tk.Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare ones
            raise ValueError(f"expected a tokenizer as to_json writes it: {error}") from error

    def _complete(self):
        """A copy of bpe that says itself how it truncates and pads."""
        bpe = type(self.bpe).from_str(self.bpe.to_str())
        bpe.enable_truncation(self.length)
        bpe.enable_padding(length=self.length, pad_id=self.pad, pad_token=bpe.id_to_token(self.pad))
        return bpe

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a file written by `save`, or a folder of the diffusers layout: Stable Diffusion's `tokenizer/`, say.

        A folder holds tokenizer.json, or CLIP's vocab.json and merges.txt; tokenizer_config.json and
        special_tokens_map.json may say more. The ids are those of transformers, whose oddity it shares that where
        "!" is the padding, as in Stable Diffusion 2, it is read as padding in a prompt as well.
        Raises FileNotFoundError, and ValueError that names the file which is damaged.
        """
        path = Path(path)
        return cls(*files.read_folder(path)) if path.is_dir() else cls(files.read(path))


def train_tokenizer(texts: Iterable[str], vocab_size: int, length: int = LENGTH) -> Tokenizer:
    """A tokenizer of at most vocab_size tokens for such texts; the same texts, in any order, give the same one.

    A word carries the space before it, and the first one gets a space too, so that it is the same token anywhere.
    The last two ids are the start and the end token, as in CLIP. Raises ValueError when the bytes alone do not fit.
    """
    if vocab_size < 256 + 2:
        raise ValueError(f"expected vocab_size from 258, all bytes with the start and end token, got {vocab_size}")
    bpe = tk.Tokenizer(tk.models.BPE())
    bpe.normalizer = tk.normalizers.Sequence(
        [
            tk.normalizers.NFC(),
            tk.normalizers.Lowercase(),
            tk.normalizers.Replace(tk.Regex(r"\s+"), " "),
            tk.normalizers.Strip(),
            tk.normalizers.Prepend(" "),
            tk.normalizers.Replace(tk.Regex(r"^ (?=\p{Han})"), ""),
        ]
    )
    bytelevel = tk.pre_tokenizers.ByteLevel
    bpe.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [
            tk.pre_tokenizers.Split(tk.Regex(_WORDS), "isolated"),
            bytelevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = tk.decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        tk.trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            min_frequency=2,
            initial_alphabet=bytelevel.alphabet(),
            show_progress=False,
        ),
    )
    # Part of the vocabulary but not "added tokens", which would be recognised in a prompt that spells them out.
    model = json.loads(bpe.to_str())["model"]
    vocab = model["vocab"] | {token: len(model["vocab"]) + i for i, token in enumerate((START, END))}
    bpe.model = tk.models.BPE(vocab, [tuple(pair) for pair in model["merges"]])
    bpe.post_processor = tk.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, vocab[token]) for token in (START, END)]
    )
    return Tokenizer(bpe, length)
