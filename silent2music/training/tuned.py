"""What comes out of `s2m tune`: the adapter or the model, its page, its figures and its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from silent2music.adapters import ADAPTER_CONFIG, ADAPTER_FILE, read_adapter, write_adapter
from silent2music.config import COMPOSER_FOLDER
from silent2music.errors import require
from silent2music.files import atomic_folder, read_json, write_text
from silent2music.processes import Progress
from silent2music.training.running import LOG_FILE
from silent2music.training.tune_job import PATIENCE, WHOLE, Base, TuneJob, adapter_config
from silent2music.weights import CONFIG_FILE, WEIGHTS_FILE, read_weights

REPORT_FILE, PAGE_FILE = "report.json", "before-after.html"

Tell = Callable[[str], None]


def loss_curve(log: Path) -> list[tuple[int, float]]:
    """Steps and held-out losses of a run's log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["validation_true"]) for line in lines if "validation_true" in line]


def told_of(part: str, curve: list[tuple[int, float]], planned: int) -> str:
    """How a part's held-out loss went, which step is kept, and why training ended, in a sentence.

    Args:
        curve: from `loss_curve`.
        planned: steps at most.
    """
    at, best = min(enumerate(curve), key=lambda point: point[1][1])
    last = curve[-1][0]
    first = "of the base" if curve[0][0] == 0 else f"at step {curve[0][0]}"
    why = "the time was over"
    if len(curve) - 1 - at >= PATIENCE:
        why = f"{PATIENCE} validations in a row were no lower"
    elif last >= planned:
        why = "all steps were done"
    return (
        f"{part}: held-out loss {curve[0][1]:.4f} {first}, lowest {best[1]:.4f} at step {best[0]}, which is kept; "
        f"training ended at step {last}, since {why}."
    )


def finish(job: TuneJob, plan: Mapping[str, int], tell: Tell, report: Progress) -> None:
    """Write the adapter, or with all weights the model, then the page, the figures and the card."""
    from silent2music.evaluation.before_after import Comparison, compare, followed_as_by_base, page, sentences

    _write(job, plan, None)
    comparison = Comparison(
        base=job.base,
        adapter=None if job.full else job.out,
        tuned=job.out / "model" if job.full else job.base,
        pairs=job.work / "pairs",
        rooms=job.rooms,
        n=job.recipe.tune.n_compared,
        seed=job.seed,
        soundfonts=job.recipe.data.soundfont,
        n_followed=job.recipe.tune.n_followed,
        n_played=job.recipe.tune.n_played,
    )
    loudness = None
    if "composer" in plan:
        loudness = followed_as_by_base(comparison, report)
        _write(job, plan, loudness["share"])
    figures, pieces = compare(comparison, report)
    curves = {part: loss_curve(job.work / part / LOG_FILE) for part in plan}
    figures |= {
        "base": Base.of(job.base).model.name,
        "data": job.found,
        "licence": job.licence,
        "steps": dict(plan),
        "loudness": loudness,
        "held_out_loss": {part: [list(point) for point in curve] for part, curve in curves.items()},
        "losses": [told_of(part, curve, plan[part]) for part, curve in curves.items()],
    }
    lines = [*figures["losses"], *sentences(figures)]
    for line in sentences(figures):
        tell(line)
    write_text(job.out / "README.md", card(job, figures, lines))
    write_text(job.out / PAGE_FILE, page(figures, pieces, lines))
    # The last: it says that all is there.
    write_text(job.out / REPORT_FILE, json.dumps(figures, indent=2) + "\n")
    if not job.full:
        size = (job.out / ADAPTER_FILE).stat().st_size
        tell(
            f"{job.out}: an adapter of {size / 2**20:.2f} MiB; hear what it changed in {job.out / PAGE_FILE}."
        )


def _write(job: TuneJob, plan: Mapping[str, int], following: float | None) -> None:
    """Write the adapter, or the model folder; `following` is as in `AdapterConfig`."""
    if not job.full:
        tensors: dict[str, Any] = {}
        for part in plan:
            tensors |= read_weights(job.work / part / f"{part}.safetensors")
        write_adapter(job.out, adapter_config(job, list(plan), following), tensors)
        return
    with atomic_folder(job.out / "model") as temporary:
        shutil.copytree(job.base, temporary, dirs_exist_ok=True)
        for part in plan:
            _copy_part(job.work / part, part, temporary)
        if following is not None:
            path = temporary / COMPOSER_FOLDER / CONFIG_FILE
            write_text(path, json.dumps({**read_json(path), "following": following}, indent=2) + "\n")


def _copy_part(place: Path, part: str, folder: Path) -> None:
    """A part as it was trained with all weights, to its place in a model folder."""
    if part == "decoder":
        shutil.copy(place / WHOLE[part] / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    else:
        shutil.copytree(place / WHOLE[part], folder / part, dirs_exist_ok=True)


def card(job: TuneJob, figures: Mapping[str, Any], lines: list[str]) -> str:
    """The text of an adapter's `README.md`: base, data, licence as stated, figures, and how to use it."""
    name = job.out.resolve().name
    return "\n".join(
        [
            "---", "library_name: silent2music", "tags: [music-generation, audio, lora]",
            *([f"license: {json.dumps(job.licence)}"] if job.licence != "not stated" else []), "---", "",
            f"# {name}", "",
            f"An adapter of the silent2music model '{figures['base']}': `s2m infer room.wav --adapter {name}`.",
            "`adapter.json` names the base's weights by checksum; another base is refused.", "",
            "## Data", "", f"{figures['data']}. Licence, as stated by its owner: {job.licence}.", "",
            "## What it changed", "", *(f"- {line}" for line in lines), "",
            f"`{PAGE_FILE}` has the same rooms by base and tuned model, and `{REPORT_FILE}` all figures.", "",
        ]
    )  # fmt: skip


SHARED = (ADAPTER_CONFIG, ADAPTER_FILE, "README.md", REPORT_FILE, PAGE_FILE)
"""What of an adapter's folder is passed on."""


def push_adapter(folder: Path, repo_id: str, **options: Any) -> str:
    """Upload an adapter with card and page, and nothing of its data, to the Hugging Face hub; returns its address.

    Args:
        folder: written by `tune`.
        repo_id: `owner/name`, created if it is not there.
        options: as `huggingface_hub.upload_folder` takes them.

    Raises:
        CheckpointError: if the folder holds no adapter.
    """
    read_adapter(folder)
    hub = require("huggingface_hub", "hub")
    hub.create_repo(repo_id, exist_ok=True, token=options.get("token"))
    return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(SHARED), **options))
