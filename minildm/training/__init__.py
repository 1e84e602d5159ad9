"""One training loop for every lesson and recipe, on Hugging Face `accelerate`.

What is learned is said by two things: `batch` makes the data, with all its randomness, and `loss` measures the model
on it. Both depend on their arguments alone, and the generator of each step comes from (seed, step), so a run that was
killed continues from its checkpoint to the very same weights, and N processes learn what one would.
"""

from minildm.training._history import History
from minildm.training._loop import train
from minildm.training._muon import Muon, inner_and_rest
from minildm.training._rate import learning_rate
from minildm.training._state import restore, unwrapped

__all__ = ["History", "Muon", "inner_and_rest", "learning_rate", "restore", "train", "unwrapped"]
