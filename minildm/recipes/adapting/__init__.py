"""Adapting a model to your own pictures: `minildm adapt lora|inversion|dreambooth|controlnet`, a file for each."""
