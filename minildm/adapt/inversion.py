"""Textual inversion: a new word, whose vector is found from pictures. All networks stay as they are.

A text encoder begins with a table: a vector for each token. A new token gets a new row. It starts as the vector of a
word that is near, and is trained by the loss of the frozen denoiser, whose gradient reaches it through the frozen text
encoder. What was learned is one vector: a kilobyte.
Source: Gal et al., "An Image is Worth One Word" (2023), section 4.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from minildm import storage
from minildm.text import TextEncoder, Tokenizer

FORMAT = "minildm word 1"
NAME = "learned_embeds.safetensors"  # in a folder of diffusers
OTHER_PROGRAMS = "emb_params"  # what the web UI of AUTOMATIC1111 calls the vector


class NewRow(nn.Module):
    """A table of vectors with one row more. The old ones are frozen, and the new one is trained. (b, n) -> (b, n, d)"""

    def __init__(self, table: nn.Embedding, vector: Tensor):
        super().__init__()
        self.table, self.vector = table, nn.Parameter(vector.to(table.weight))

    @property
    def num_embeddings(self) -> int:
        """How many rows there are."""
        return self.table.num_embeddings + 1

    def forward(self, ids: Tensor) -> Tensor:
        new = ids == self.table.num_embeddings  # (b, n)
        return torch.where(new[..., None], self.vector, self.table(ids.masked_fill(new, 0)))

    def grown(self) -> nn.Embedding:
        """The same as a plain table."""
        rows = torch.cat([self.table.weight, self.vector[None]]).detach()
        return nn.Embedding.from_pretrained(rows, freeze=not self.table.weight.requires_grad)


class NewWord:
    """A word that a tokenizer and a text encoder are to learn; both are changed in place.

        word = NewWord(pipe.tokenizer, pipe.text_encoder, "<blorp>", like="cat")
        parts = networks(pipe); training.train(parts, examples, example_loss, steps=500, lr=5e-3)
        word.keep()                             # from now on a row like any other
        word.save("blorp.safetensors")          # pipe.load_word("blorp.safetensors")

    word: without spaces, and none that the tokenizer has as a token; "<blorp>" is none that anybody writes by chance.
    like: the text whose vectors, their mean, it starts from.  vector: (d,), what it starts from, instead.
    The text encoder is frozen, but for the one vector. Freeze the denoiser, too: `pipe.unet.requires_grad_(False)`.
    Raises ValueError for such a word, and while another one is being learned.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        word: str,
        like: str | None = None,
        vector: Tensor | None = None,
    ):
        if not isinstance(tokenizer, Tokenizer) or not isinstance(text_encoder, TextEncoder):
            found = f"{type(tokenizer).__name__} and {type(text_encoder).__name__}"
            raise ValueError(f"expected a Tokenizer and a TextEncoder, those of a pipeline for words, got {found}")
        if not isinstance(text_encoder.tokens, nn.Embedding):
            raise ValueError("another word is being learned: call its keep() first")
        if not isinstance(word, str) or not word or re.search(r"\s", word):
            raise ValueError(f"expected a word without spaces, such as '<blorp>', got {word!r}")
        if tokenizer.bpe.token_to_id(word) is not None:
            raise ValueError(
                f"the tokenizer has {word!r} already: choose another word, such as '<{word.strip('<>')}-2>'"
            )
        if len(tokenizer) != text_encoder.tokens.num_embeddings:
            found = f"{len(tokenizer)} and {text_encoder.tokens.num_embeddings}"
            raise ValueError(f"expected as many tokens in the tokenizer as in the text encoder, got {found}")
        rows = text_encoder.tokens.weight.detach()
        if (like is None) == (vector is None):
            raise ValueError("expected either like, a text to start from, or a vector")
        if vector is None:
            if not (near := tokenizer.encode(like)[1:-1]):
                raise ValueError("expected a text to start from, like='cat', got an empty one")
            vector = rows[near].mean(0)
        if vector.shape != rows.shape[1:]:
            raise ValueError(f"expected a vector of {rows.shape[1]} numbers, got shape {tuple(vector.shape)}")
        tokenizer.bpe.add_tokens([word])
        text_encoder.requires_grad_(False)
        text_encoder.tokens = NewRow(text_encoder.tokens, vector)
        text_encoder.config["vocab_size"] += 1
        self.word, self._encoder, self._id = word, text_encoder, len(tokenizer) - 1

    @property
    def vector(self) -> Tensor:
        """What was learned so far: (d,)."""
        tokens = self._encoder.tokens
        return tokens.weight[self._id] if isinstance(tokens, nn.Embedding) else tokens.vector

    def keep(self) -> None:
        """End the learning: the vector becomes a row of the table, so that the pipeline can be saved, or learn more."""
        if isinstance(self._encoder.tokens, NewRow):
            self._encoder.tokens = self._encoder.tokens.grown()

    def save(self, path: str | Path, **record: object) -> Path:
        """Write the word and its vector, so that diffusers opens it too (load_textual_inversion); returns the path.

        path: a .safetensors file, or a folder, which gets a `learned_embeds.safetensors`.  record: how it was made.
        """
        path = Path(path)
        metadata = {"format": FORMAT, "record": json.dumps(record)}
        storage.write(path if path.suffix == ".safetensors" else path / NAME, {self.word: self.vector}, metadata)
        return path


def load_word(path: str | Path, tokenizer: Tokenizer, text_encoder: TextEncoder, word: str | None = None) -> str:
    """Teach a tokenizer and a text encoder the word of a file, for good; returns the word.

    path: a .safetensors file of minildm, diffusers or AUTOMATIC1111's web UI, or a folder with one of diffusers.
    word: what to call it; None: as the file does, or after the file's name where that has no word.
    Raises FileNotFoundError; and ValueError for a file that is damaged, that is of another text encoder or holds
    several vectors, and for a word that is there already. A .bin or .pt is not opened: unpickling can run any program.
    """
    path = Path(path).expanduser()
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no embedding {path}: expected a .safetensors file, or a folder with {NAME}")
    if path.suffix != ".safetensors":
        raise ValueError(f"expected an embedding as a .safetensors file, got {path}: minildm unpickles nothing")
    tensors, _ = storage.read(path, foreign=True)
    if len(tensors) != 1:
        raise ValueError(f"{path} is no embedding of one word: it holds {', '.join([*tensors][:3]) or 'nothing'}")
    ((name, vector),) = tensors.items()
    if vector.ndim == 2 and len(vector) > 1:
        raise ValueError(f"{path} holds {len(vector)} vectors for its word, and a word here has one")
    vector, expected = vector.flatten(), text_encoder.config["dim"]
    if len(vector) != expected:
        raise ValueError(f"{path} is of another text encoder: its vector has {len(vector)} numbers, not {expected}")
    word = word or (path.stem if name == OTHER_PROGRAMS else name)
    NewWord(tokenizer, text_encoder, word, vector=vector).keep()
    return word
