"""An AOTInductor package: the network compiled by PyTorch, for those without TensorRT."""

from pathlib import Path

import torch

from flowerseg.arrays import SizeHW
from flowerseg.backends.cudnn import CudnnSwitches, cudnn_switches
from flowerseg.backends.inductor import require_private_code_cache
from flowerseg.errors import ExportError
from flowerseg.model import FlowerNet
from flowerseg_export.graph import exported_program


def write_pt2(network: FlowerNet, size_hw: SizeHW, path: Path) -> None:
    """Compile a network, for the device that its weights are on, into a `.pt2` package.

    Raises:
        ExportError: the compiler is missing or fails.
        BackendUnavailable: other users can change the folder in which the compiler keeps code.
    """
    if network.mean.is_cuda:
        # As the activations are: or every convolution would transpose its weights.
        network = network.to(memory_format=torch.channels_last)
    require_private_code_cache()
    program = exported_program(network, size_hw)
    try:
        # Kernels that are generated have TF32 compiled in, or not.
        with cudnn_switches(CudnnSwitches()):
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # inductor raises many types, a missing g++ among them
        last = str(error).strip().splitlines()[-1:]
        raise ExportError(
            f"AOTInductor could not compile the network: {' '.join(last)}. It needs a C++ compiler "
            "(apt install g++) and, for a GPU, the CUDA toolkit that torch was built with."
        ) from error
