"""Weights as a safetensors file that is filled in place, so that tables need not fit into memory.

The file is laid out first; its tensors are memory-mapped as the model's own, and the checkpoint is read into
them, one saved shard at a time.

Source: the format is https://github.com/huggingface/safetensors: the length of a header, the header, bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DTYPES = {
    torch.float32: ("F32", np.float32),
    torch.float16: ("F16", np.float16),
    torch.int64: ("I64", np.int64),
}
ALIGNMENT = 8


def map_weights(model: nn.Module, path: Path) -> None:
    """Give a model's weights, on any device or none, their place in a new safetensors file.

    Their values are zero.
    """
    state = {key: tensor for key, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, tensor in state.items():
        name, dtype = DTYPES[tensor.dtype]
        size = tensor.numel() * np.dtype(dtype).itemsize
        header[key] = {"dtype": name, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    begin = 8 + len(text)
    mapped = {
        key: _map(path, DTYPES[tensor.dtype][1], begin + header[key]["data_offsets"][0], tuple(tensor.shape))
        for key, tensor in state.items()
    }
    model.load_state_dict(mapped, assign=True)


def _map(path: Path, dtype: type[np.generic], offset: int, shape: tuple[int, ...]) -> torch.Tensor:
    if not math.prod(shape):
        return torch.from_numpy(np.empty(shape, dtype))
    return torch.from_numpy(np.memmap(path, dtype, "r+", offset, shape or (1,))).view(shape)
