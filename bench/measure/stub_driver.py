"""A CUDA driver that does nothing, so that Triton compiles and launches without a GPU, up to the call of the driver.

Triton's own launcher runs, linked to a small library in place of NVIDIA's. It needs a C compiler, as Triton does.
Tensors are those of the CPU, and nothing is computed: results hold whatever was in memory.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

_SOURCE = r"""
typedef unsigned long long address;
static long launches = 0, functions = 0;
long stub_launches(void) { return launches; }
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "of the driver that does nothing"; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 232448; return 0; } /* shared memory */
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return 0; }
int cuCtxGetLimit(unsigned long *value, int limit) { *value = 0; return 0; }
int cuCtxSetLimit(int limit, unsigned long value) { return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
int cuModuleUnload(void *module) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)++functions; return 0; }
/* Attribute 0 is how many threads a program may have. */
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = attribute ? 0 : 1024; return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuFuncSetCacheConfig(void *function, int config) { return 0; }
int cuPointerGetAttribute(void *data, int attribute, address pointer) { *(address *)data = pointer; return 0; }
int cuPointerGetAttributes(unsigned n, void *attributes, void **data, address pointer) { return 0; }
int cuStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *config) { *clusters = 1; return 0; }
int cuTensorMapEncodeTiled(void) { return 0; }
int cuTensorMapEncodeIm2col(void) { return 0; }
int cuLaunchKernelEx(const void *config, void *function, void **arguments, void **extra) { launches++; return 0; }
"""


def is_possible() -> bool:
    """Return whether there is a C compiler, and no NVIDIA driver that this one would hide."""
    return shutil.which("cc") is not None and not Path("/dev/nvidiactl").exists()


def install(folder: Path, capability: int = 90) -> ctypes.CDLL:
    """Make Triton take the driver for that of a GPU; before its kernels are imported, once per process.

    Args:
        folder: where the library is built.
        capability: of the GPU that kernels are compiled for, ten times.

    Returns:
        The library, whose ``stub_launches()`` counts the launches so far.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set in the environment: nothing would be compiled or launched.")
    path = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=_SOURCE, text=True, check=True)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # found by its name when Triton's launcher is loaded

    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
    from triton.runtime import driver

    class StubDriver(CudaDriver):  # type: ignore[misc]
        def __init__(self) -> None:
            self.utils = CudaUtils()
            self.launcher_cls = CudaLauncher
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.get_device_capability = lambda device: divmod(capability, 10)

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", capability, 32)

    driver.set_active(StubDriver())
    return library
