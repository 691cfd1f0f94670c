"""Types in which ranks exchange pooled vectors and their gradients."""

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

TYPES = {"float32": CommType.FP32, "float16": CommType.FP16, "bfloat16": CommType.BF16}
"""In TorchRec's terms."""
VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def codecs(communication: str) -> dict[str, QuantizedCommCodecs] | None:
    """What turns values into a type and back, by collective; None: they travel as they are.

    Source: Yang et al., DLP-KDD 2020.
    """
    kind = TYPES[communication]
    if kind == CommType.FP32:
        return None
    # TorchRec's own registry knows no bfloat16 on gloo, which carries it by now.
    both = get_qcomm_codecs(QCommsConfig(kind, kind))
    exchanges = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)
    return dict.fromkeys((exchange.name for exchange in exchanges), both)
