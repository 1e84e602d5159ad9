"""One U-Net, four jobs: it segments cells, removes noise, paints from words, and judges the paintings."""

__version__ = "0.1.0"
