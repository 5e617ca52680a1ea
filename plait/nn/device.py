"""Which device the work is done on."""

import torch


def resolve_device(device: str) -> str:
    """`auto` made definite: cuda where there is one, else cpu. The tests do not run on a GPU.

    Raises:
        ValueError: there is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ValueError(f"device = {device!r}: expected auto, cpu or cuda ({error})") from None
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device = {device!r}: expected auto, cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device = {device!r}: torch finds no GPU here; use auto or cpu, or a torch built for CUDA"
        )
    return device
