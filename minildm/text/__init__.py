"""Text: the tokenizer, CLIP's text encoder at any size, and the contrastive training that teaches it."""

from .contrastive import CLIP, ImageEncoder, contrastive_loss
from .encoder import TextEncoder
from .tokenizer import Tokenizer, train_tokenizer

__all__ = ["CLIP", "ImageEncoder", "TextEncoder", "Tokenizer", "contrastive_loss", "train_tokenizer"]
