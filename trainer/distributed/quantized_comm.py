"""Types in which ranks exchange pooled embeddings and their gradients."""

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

TYPES = {"float32": CommType.FP32, "float16": CommType.FP16, "bfloat16": CommType.BF16}
"""TorchRec's name of each type."""
VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def codecs(communication: str) -> dict[str, QuantizedCommCodecs] | None:
    """Return what converts values to a type and back, by collective; None if they travel as they are.

    Source: Yang et al., DLP-KDD 2020.
    """
    kind = TYPES[communication]
    if kind == CommType.FP32:
        return None
    # TorchRec's own registry refuses bfloat16 on gloo, which carries it by now.
    both = get_qcomm_codecs(QCommsConfig(kind, kind))
    exchanges = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)
    return dict.fromkeys((exchange.name for exchange in exchanges), both)
