"""Deep feedback networks: five convolutional spiking layers, the last of which feeds back to the first.

'AlexNet-F' and 'CIFARNet-F' of Xiao et al., NeurIPS 2021 (arXiv:2109.14247): 3x3 convolutions, stride 2 into layers 1
and 3; the feedback is a transposed convolution, twice as high and wide. Built like the networks in `feedback.py`.
"""

from harness.models.feedback import Config, build

__all__ = ["FEEDBACK", "NETWORKS", "SMALL", "Config", "build"]

FEEDBACK = True
NETWORKS = {
    "AlexNet-F": Config(widths=(96, 256, 384, 384, 256), kernel_size=3, strides=(2, 1, 2, 1, 1)),
    "CIFARNet-F": Config(widths=(128, 256, 512, 1024, 512), kernel_size=3, strides=(2, 1, 2, 1, 1)),
}
SMALL = {"widths": (8, 12, 12), "strides": (2, 1, 2)}
