"""Adaptation: small trained additions that teach a frozen model something new.

| addition          | what is trained                                          | size of the file      |
|-------------------|----------------------------------------------------------|-----------------------|
| LoRA              | thin layers beside the model's own                       | less than a megabyte  |
| textual inversion | one vector: the meaning of a new word                    | a kilobyte            |
| ControlNet        | a copy of the encoder, which sees a picture to follow    | half of the U-Net     |
| DreamBooth        | the U-Net itself, which must not forget what it knew     | all of the U-Net      |
"""

from minildm.adapt.controlnet import Controlled, ControlNet
from minildm.adapt.dreambooth import WithPrior, dreambooth_loss, prior_pictures
from minildm.adapt.examples import Examples, example_error, example_loss, networks
from minildm.adapt.inversion import NewWord, load_word
from minildm.adapt.lora import LoRA, LowRank

__all__ = [
    "LoRA",
    "LowRank",
    "NewWord",
    "load_word",
    "ControlNet",
    "Controlled",
    "networks",
    "Examples",
    "example_error",
    "example_loss",
    "WithPrior",
    "dreambooth_loss",
    "prior_pictures",
]
