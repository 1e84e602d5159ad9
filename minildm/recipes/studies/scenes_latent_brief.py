"""Ablation of the autoencoder: `scenes-latent` again on one that was trained for a few minutes only; for lesson 07.

Its figures go into the record of `scenes-latent`; neither network is kept.
"""

from pathlib import Path

from minildm import weights
from minildm.recipes import RUNS, Job, amend, labelled, scenes_latent, vae_pocket

VAE_STEPS = 300  # instead of vae_pocket.STEPS


def run(
    out: Path | None = None, *, steps: int | None = None, seed: int = 0, resume: bool = True, runs: Path = RUNS
) -> Path:
    """Train both, measure them, and write that into the record of `scenes-latent`; returns the path."""
    vae, pictures = vae_pocket.network(seed), labelled.scenes()
    vae_pocket.fit(vae, min(VAE_STEPS, steps or VAE_STEPS), seed)
    vae_pocket.scale(vae)
    name, space = "scenes-latent-brief", labelled.Latents(pictures[0], vae)
    job = Job(name, Path(runs) / f"{name}.finished.safetensors", seed, resume, runs)
    path = labelled.train_arm(job, scenes_latent.network(seed), space, pictures[1], steps or scenes_latent.STEPS)
    real, labels = labelled.scenes(600, labelled.TEST_SEED)
    found = {key: weights.record(path)[key] for key in ("quality", "final", "steps")}
    found |= {"vae_steps": VAE_STEPS, "vae": vae_pocket.evaluate(vae)}
    found |= {"ceiling": labelled.recognised(vae_pocket.rebuilt(vae, real), labels).mean().item()}
    path.unlink()
    return amend("scenes-latent", out, dtype=labelled.DTYPE, brief=found)
