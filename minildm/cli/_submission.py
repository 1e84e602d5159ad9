"""`minildm evaluate --submission` and `--verify`: a score as a record that anybody can recompute."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import minildm
from minildm import geneval, storage, weights
from minildm.cli import _painting as painting
from minildm.pipeline import LatentDiffusion

FORMAT = "minildm submission 1"
MARKS = "wrong", "right", "right and alike"  # by the digit that stands for a picture


def submit(path: Path, model: str, split: str = "both", language: str = "en", **protocol: object) -> dict:
    """Evaluate a model, write the record, and print what counts; returns the record.

    model, split, language: as `painting.evaluate` has them.  protocol: per_task, seeds, steps, guidance, sampler.
    The record names no time and no machine, so a second run writes the same.
    """
    painting.check_file(path, [".json"])
    record = measure(_pipeline(model), model, *painting.asked(split, language), **protocol)
    storage.write_text(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    print(*_table(record), f"written: {path}", sep="\n")
    return record


def verify(path: Path, model: str | None = None) -> list[str]:
    """Compute a record again and print whether it is the same; returns the differences, a sentence each.

    model: where the model lies here; None: where the record says.
    Raises ValueError for a file that is no such record, and for a model that is not the one that was evaluated.
    """
    record = read(path)
    model = record["model"]["name"] if model is None else model
    pipe = _pipeline(model)
    found = fingerprint(pipe)
    if found != record["model"]["sha256"]:
        raise ValueError(
            f"{model} is not the model of {path.name}: expected sha256 {record['model']['sha256'][:12]}…, got "
            f"{found[:12]}…; name the right one with --model"
        )
    splits, languages = (list(dict.fromkeys(one[key] for one in record["results"])) for key in ("split", "language"))
    again = measure(pipe, model, splits, languages, **record["protocol"])
    different = list(differences(record, again))
    print(*_table(again), *different, sep="\n")
    print(
        f"equal: {path.name} is what this model paints" if not different else f"not equal: {len(different)} differences"
    )
    return different


def measure(pipe: LatentDiffusion, model: str, splits: list[str], languages: list[str], **protocol: object) -> dict:
    """The record of a pipeline, loaded from `model`, as JSON can hold it."""
    if protocol.get("guidance") is None:
        protocol["guidance"] = pipe.guidance
    how = {key: protocol[key] for key in ("steps", "guidance", "sampler")}
    results = []
    for language in languages:
        for split in splits:
            counts = {key: protocol[key] for key in ("per_task", "seeds")}
            results.append(_result(geneval.evaluate(pipe, split, language, **counts, **how)))
    return {
        "format": FORMAT,
        "minildm": minildm.__version__,
        "model": {"name": Path(model).name, "sha256": fingerprint(pipe), **_size(pipe)},
        "judge": weights.checksum("scenes-judge"),
        "protocol": protocol,
        "cost": cost(pipe, **how),
        "results": results,
    }


def read(path: Path) -> dict:
    """A record from its file; ValueError for anything else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}")
        for key in ("model", "protocol", "results", "cost", "judge"):
            _ = record[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a record of `minildm evaluate --submission`, got {path.name}: {error!r}") from error
    return record


def fingerprint(pipe: LatentDiffusion) -> str:
    """SHA-256 of all that a pipeline paints with: tensors by names, shapes and values, the schedule, the settings."""
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, part)
        for name, tensor in sorted(storage.state(module).items()) if isinstance(module, nn.Module) else ():
            digest.update(f"{part}.{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
    settings = [pipe.schedule.config, pipe.scale_factor, list(pipe.size), pipe.spacing, pipe.offset, pipe.ends_clean]
    settings += [pipe.sees_padding, str(pipe.clip), pipe.guidance_interval]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def cost(pipe: LatentDiffusion, **how: object) -> dict[str, int]:
    """What one picture asks of the network: calls, and rows in them, of which guidance takes two a call."""
    rows = []
    counter = pipe.unet.register_forward_hook(lambda module, given, answer: rows.append(len(answer)))
    try:
        pipe("a cat", seed=0, output="tensor", **how)
    finally:
        counter.remove()
    return {"calls": len(rows), "rows": sum(rows)}


def differences(record: dict, again: dict) -> Iterator[str]:
    """What differs between two records of one model, a sentence each; those of pictures name prompt and seed."""
    for key in ("minildm", "judge", "protocol", "cost"):
        if record[key] != again[key]:
            yield f"{key}: recorded {record[key]}, now {again[key]}"
    for before, after in zip(record["results"], again["results"], strict=False):
        where, each = f"{after['split']}, {after['language']}", again["protocol"]["seeds"]
        for task, prompts in after["pictures"].items():
            for number, (prompt, marks) in enumerate(prompts):
                told = dict(map(tuple, before["pictures"].get(task, []))).get(prompt, "")
                for k, mark in enumerate(marks):
                    was = MARKS[int(told[k])] if k < len(told) and told[k] in "012" else "missing"
                    if was != MARKS[int(mark)]:
                        seed = number * each + k
                        yield f"{where}, {task}, {prompt!r}, seed {seed}: recorded {was}, now {MARKS[int(mark)]}"
        if before["summary"] != after["summary"]:
            overall = [one["summary"].get("overall") for one in (before, after)]
            yield f"{where}, summary: recorded {overall[0]}, now {overall[1]}"


def _result(report: geneval.Report) -> dict:
    """A report as a record holds it: shares of each task, and for each prompt a digit a picture."""
    pictures = {}
    for task in report.tasks:
        mine = [one for one in report.pictures if one.task == task]
        each = len(mine) // sum(one.task == task for one in report.real)
        rows = [mine[k : k + each] for k in range(0, len(mine), each)]
        pictures[task] = [[row[0].prompt, "".join(str(_mark(one)) for one in row)] for row in rows]
    summary = {
        name or "overall": {"score": round(report.score(name).value, 6), "strict": round(report.strict(name).value, 6)}
        for name in (*report.tasks, None)
    }
    return {"split": report.split, "language": report.language, "summary": summary, "pictures": pictures}


def _mark(one: geneval.Picture) -> int:
    return int(geneval.is_right(one)) + int(geneval.is_right_and_alike(one))


def _pipeline(model: str) -> LatentDiffusion:
    """In float32 on the CPU, where all machines agree up to rounding."""
    return painting.load(model).to("cpu", torch.float32)


def _size(pipe: LatentDiffusion) -> dict[str, int]:
    modules = [one for one in (pipe.unet, pipe.vae, pipe.text_encoder) if isinstance(one, nn.Module)]
    return {"parameters": sum(one.numel() for module in modules for one in module.parameters())}


def _table(record: dict) -> Iterator[str]:
    told, cost = record["protocol"], record["cost"]
    yield (
        f"{record['model']['name']} ({record['model']['sha256'][:12]}…): {told['per_task']} prompts a task × "
        f"{told['seeds']} seeds, {cost['calls']} calls a picture"
    )
    for one in record["results"]:
        for task, shares in one["summary"].items():
            found = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
            yield f"  {one['split']:8}{one['language']:4}{task:20} {found}"
