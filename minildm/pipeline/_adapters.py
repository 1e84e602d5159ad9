"""What can be added to a pipeline that is trained: LoRA and new words, from files."""

from pathlib import Path

from minildm.adapt import LoRA, load_word, networks
from minildm.pipeline import _inputs as inputs


class Adaptable:
    """The part of a pipeline that takes additions in."""

    def load_lora(self, file_or_folder: str | Path, scale: float = 1.0) -> LoRA:
        """LoRA: put the additions of a file beside the layers of this pipeline's networks; returns them.

        file_or_folder: of minildm, diffusers, peft or kohya-ss, as `LoRA.load` reads it.  scale: how much is added.
        Several add up. `lora.scale = 0.5` changes how much at any time, `lora.remove()` takes it away again.
        Errors as of `LoRA.load`.
        """
        lora = LoRA.load(file_or_folder, networks(self), scale)
        self._knows(lora.words)
        return lora

    def load_word(self, file_or_folder: str | Path, word: str | None = None) -> str:
        """Textual inversion: teach this pipeline the new word of a file; returns the word, to be used in prompts.

        file_or_folder, word: as `adapt.load_word` takes them; its errors, too.
        """
        word = load_word(file_or_folder, self.tokenizer, self.text_encoder, word)
        self._knows([word])
        return word

    def _knows(self, words: list[str]) -> None:
        """No warning of these words from now on."""
        self.words = self.words and self.words | inputs.vocabulary(words)
