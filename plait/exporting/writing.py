"""Exported programs in a folder: checked against the engine, then put in place whole.

Files of the folder: `encode`, `score` and `rank` (.onnx or .pt2), `items.parquet` with the log's ids, `export.json` and
`README.md` with what goes in and out, `hashes.json`.
"""

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from plait import files
from plait.data.history import save_vocabulary
from plait.data.storage.whole_folders import MANIFEST
from plait.engine.state_file import hash_of
from plait.exporting.comparing import Difference, differences_on_drawn
from plait.exporting.exported import (
    ABOUT,
    EXTRA,
    FORMAT_VERSION,
    README,
    About,
    Exported,
    Format,
    header_of,
    program_file,
)
from plait.exporting.programs import Drafted, as_onnx, as_torch, drafted, events_read
from plait.exporting.readme import readme
from plait.exporting.supported import check_exportable
from plait.models.generative import GenerativeRecommender
from plait.recommender import Recommender

INLINE_BYTES = 1 << 30  # of weights: an ONNX file of more keeps them in a file beside it
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("plait", "torch", "onnx", "onnxscript", "onnxruntime"),
    "torch": ("plait", "torch"),
}


def export(
    recommender: Recommender, folder: Path | str, format: Format = "onnx", *, without_counts: bool = False
) -> list[Difference]:
    """Writes a recommender as programs that need no Plait, over an export that the folder holds.

    `encode` takes histories, `score` what it gives with candidates, `rank` what it gives; numbers of users, events and
    candidates are free. Weights are fp32, and counts beside the model are tables in the programs. Before anything is
    put in place, the programs are compared with the engine on three sizes that were not traced.

    Args:
        folder: new, empty, or with an earlier export.
        format: onnx, for onnxruntime; torch, of `torch.export`, for a torch of this version.
        without_counts: the network alone, of a model whose answers counts add to, which takes less room. README and
            `export.json` say so.

    Returns:
        How far the programs' logits lie from the engine's.

    Raises:
        ValueError: the model cannot be exported, and why. Or the folder holds something else, or a package is missing.
        RuntimeError: a program does not say what the engine says; the folder stays as it was.
        OSError: the folder cannot be written (disk full, no permission).
    """
    model, folder = recommender.model, Path(folder)
    check_exportable(model)
    check_can_hold_export(folder)
    check_installed(format)
    folder.parent.mkdir(parents=True, exist_ok=True)
    network = fp32_copy(model, without_counts=without_counts)
    with files.draft_folder(folder.parent, folder.name) as draft:
        about = write_programs(network, about_of(model, format, without_counts=without_counts), draft)
        save_vocabulary(draft, recommender.vocabulary, recommender.columns)
        (draft / README).write_text(readme(about, recommender.columns))
        files.seal(draft)
        found = differences_on_drawn(network, Exported.open(draft))
        _check_agrees(found, folder)
        _put_in_place(draft, folder)
    return found


def about_of(model: GenerativeRecommender, format: Format, *, without_counts: bool = False) -> About:
    """What stands in `export.json`, before there are programs."""
    leaves_out = without_counts and model.counts is not None and model.counts.pay
    return About(
        format_version=FORMAT_VERSION,
        format=format,
        model=hash_of(model),
        made_by=check_installed(format),
        layout=str(model.layout),
        actions=model.config.actions,
        num_items=model.config.num_items,
        events_read=events_read(model),
        left_out=("counts",) if leaves_out else (),
        programs={},
    )


def write_programs(network: GenerativeRecommender, about: About, folder: Path) -> About:
    """Writes a model's programs and `export.json`, which `about` becomes."""
    drafts = drafted(network)
    about = msgspec.structs.replace(about, programs={name: each.ports for name, each in drafts.items()})
    for name, each in drafts.items():
        _write_program(each, folder / program_file(name, about.format), about)
    (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    return about


def check_can_hold_export(folder: Path) -> None:
    """Raises ValueError where an exported model cannot be put."""
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} holds a prepared dataset; name a new folder, or an earlier export")
    if folder.exists() and not (
        folder.is_dir() and ((folder / ABOUT).is_file() or not any(folder.iterdir()))
    ):
        raise ValueError(
            f"{folder} holds something that is no exported model: name a new folder, or an earlier export"
        )


def check_installed(format: Format) -> tuple[str, ...]:
    """The versions of all that makes and runs programs. Raises ValueError where one is not installed."""
    try:
        return tuple(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[format])
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"format = '{format}' needs {error.name}, which is not installed: {EXTRA}") from None


def fp32_copy(model: GenerativeRecommender, *, without_counts: bool = False) -> GenerativeRecommender:
    """A copy in fp32, for the programs that are made of it, with the model's counts or without them."""
    copy = GenerativeRecommender(model.config)
    copy.load_state_dict({name: tensor.detach().float().cpu() if tensor.is_floating_point() else tensor.cpu()
                          for name, tensor in model.state_dict().items()})  # fmt: skip
    copy.counts = None if without_counts else model.counts
    return copy.eval()


def _write_program(draft: Drafted, path: Path, about: About) -> None:
    match about.format:
        case "onnx":
            program = as_onnx(draft)
            program.model.metadata_props.update(header_of(about))
            weights = sum(x.numel() * x.element_size() for x in draft.module.state_dict().values())
            program.save(str(path), external_data=weights > INLINE_BYTES)
        case "torch":
            torch.export.save(as_torch(draft), path)


def _check_agrees(found: Sequence[Difference], folder: Path) -> None:
    apart = [each for each in found if not each.difference <= each.allowed]
    if apart:
        worst = max(apart, key=lambda each: each.difference / each.allowed)
        raise RuntimeError(
            f"{folder} was not written: the exported programs' logits of {worst.logits} lie {worst.difference:.2g} "
            f"from the engine's, and {worst.allowed:.2g} is allowed; this is a fault of Plait or of its exporter"
        )


def _put_in_place(draft: Path, folder: Path) -> None:
    """The draft becomes the folder. A kill between leaves no folder, and the earlier export beside it in a hidden one,
    which the next call removes."""
    if folder.exists():
        with files.draft_folder(folder.parent, f"{folder.name}.earlier") as earlier:
            os.replace(folder, earlier / folder.name)
            os.replace(draft, folder)
    else:
        os.replace(draft, folder)
