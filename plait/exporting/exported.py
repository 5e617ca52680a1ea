"""A folder of exported programs, loaded: it answers as arrays, and needs no model.

Shape letters: U users, T events, A action columns, C candidates, V items of the catalogue.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec
import numpy as np
import torch

from plait import files
from plait.exporting.programs import Ports
from plait.schema import Action

FORMAT_VERSION = 1
ABOUT, README = "export.json", "README.md"
VERSION_KEY, MODEL_KEY = "plait.format_version", "plait.model"  # in an ONNX file's own header
AGAIN = "export the model again"
EXTRA = "pip install 'plait[export]'"

Format = Literal["onnx", "torch"]
Arrays = dict[str, np.ndarray]
Program = Callable[[Mapping[str, np.ndarray]], Arrays]


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`export.json`."""

    format_version: int
    format: Format
    model: str  # the hash of its weights and configuration
    made_by: tuple[str, ...]  # versions
    layout: str
    actions: tuple[Action, ...]
    num_items: int
    events_read: int
    left_out: tuple[str, ...]  # of what the model answers with
    programs: dict[str, Ports]


@dataclass(frozen=True, eq=False)
class Exported:
    """The programs of a folder. Arrays go in and come out by the names that its README tells."""

    about: About
    programs: Mapping[str, Program]

    @classmethod
    def open(cls, folder: Path | str) -> "Exported":
        """
        Raises:
            ValueError: the folder is no export, damaged, or of another format version; or what runs it is not
                installed.
        """
        folder = Path(folder)
        about = _about_of(folder)
        names = {name: folder / program_file(name, about.format) for name in about.programs}
        files.check_hashes(folder, AGAIN)
        loaded = {name: _loaded(path, about) for name, path in names.items()}
        return cls(about, loaded)

    def encode(self, history: Mapping[str, np.ndarray]) -> Arrays:
        """Histories, as `score` and `rank` take them."""
        return self._run("encode", history)

    def score(
        self, state: Mapping[str, np.ndarray], candidates_UC: np.ndarray, at_s_U: np.ndarray | None = None
    ) -> Arrays:
        """The actions of candidates: what is expected of each by its name, and the logits behind it.

        Raises:
            ValueError: the model scores no given item.
        """
        return self._run("score", {**state, "candidates": candidates_UC, **_moment(at_s_U)})

    def rank(self, state: Mapping[str, np.ndarray], at_s_U: np.ndarray | None = None) -> Arrays:
        """`logits` of the next item, U x V; -inf for the unknown item, number 0.

        Raises:
            ValueError: the model retrieves no items.
        """
        return self._run("rank", {**state, **_moment(at_s_U)})

    def _run(self, name: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
        if name not in self.programs:
            raise ValueError(
                f"layout '{self.about.layout}' has no program '{name}'; it has {', '.join(self.programs)}"
            )
        ports = self.about.programs[name].inputs
        lacking = [port.name for port in ports if port.name not in arrays]
        if lacking:
            raise ValueError(f"program '{name}' takes {lacking[0]!r}, which is not given")
        return self.programs[name]({port.name: arrays[port.name] for port in ports})


def program_file(program: str, format: Format) -> str:
    match format:
        case "onnx":
            return f"{program}.onnx"
        case "torch":
            return f"{program}.pt2"
        case _:
            assert_never(format)


def onnx_program(path: Path, outputs: tuple[str, ...], expected: Mapping[str, str]) -> Program:
    """An ONNX file, run by onnxruntime.

    Args:
        expected: what its header says.

    Raises:
        ValueError: it says otherwise, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"{path} runs by onnxruntime, which is not installed: {EXTRA}") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    header = session.get_modelmeta().custom_metadata_map
    for key, value in expected.items():
        if header.get(key) != value:
            raise ValueError(
                f"{path} is of another export: its {key} is {header.get(key)!r}, not {value!r}; {AGAIN}"
            )

    def run(arrays: Mapping[str, np.ndarray]) -> Arrays:
        return dict(zip(outputs, session.run(list(outputs), dict(arrays)), strict=True))

    return run


def torch_program(path: Path, outputs: tuple[str, ...]) -> Program:
    """A file of `torch.export`."""
    module: Any = torch.export.load(path).module()

    def run(arrays: Mapping[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            found = module({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()})
        return {name: found[name].numpy() for name in outputs}

    return run


def header_of(about: About) -> dict[str, str]:
    """What an ONNX file says of itself."""
    return {VERSION_KEY: str(about.format_version), MODEL_KEY: about.model}


def _loaded(path: Path, about: About) -> Program:
    outputs = tuple(port.name for port in about.programs[path.stem].outputs)
    match about.format:
        case "onnx":
            return onnx_program(path, outputs, header_of(about))
        case "torch":
            return torch_program(path, outputs)
        case _:
            assert_never(about.format)


class _Version(msgspec.Struct):
    format_version: int | None = None


def _about_of(folder: Path) -> About:
    path = folder / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} holds no exported model: it has no {ABOUT}; {AGAIN}")
    try:
        version = msgspec.json.decode(path.read_bytes(), type=_Version).format_version
        files.check_format_version(path, version, FORMAT_VERSION, AGAIN)
        return msgspec.json.decode(path.read_bytes(), type=About)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from None


def _moment(at_s_U: np.ndarray | None) -> Arrays:
    return {} if at_s_U is None else {"at_s": at_s_U}
