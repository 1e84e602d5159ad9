"""From words to vectors: the tokenizer, the text tower of CLIP at any size, and how pictures teach it."""

from .contrastive import CLIP, ImageEncoder, contrastive_loss
from .encoder import TextEncoder
from .tokenizer import Tokenizer, train_tokenizer

__all__ = ["CLIP", "ImageEncoder", "TextEncoder", "Tokenizer", "contrastive_loss", "train_tokenizer"]
