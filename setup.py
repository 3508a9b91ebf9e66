"""The one compiled module of hak2k.  Everything else is in pyproject.toml.

Switches, read from the environment:
  HAK2K_DEBUG=1     no optimisation, full debug information, -DHAK_DEBUG
  HAK2K_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer; Python must
                    then be started with libasan preloaded (docs/testing.md)
"""

import os
import subprocess
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup


def switch(name: str) -> bool:
    return os.environ.get(name, "0").lower() not in ("", "0", "no", "false")


debug = switch("HAK2K_DEBUG")
sanitize = switch("HAK2K_SANITIZE")
kind = "sanitize" if sanitize else "debug" if debug else "release"

cflags = [
    "-std=c11",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    # What Cython generates; csrc/ alone is checked without these by `make lint`.
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-sign-compare",
]
ldflags = ["-pthread"]
macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", "1"), ("HAK_BUILD", f'"{kind}"')]

if sanitize:
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    cflags += [*flags, "-O1", "-g", "-fno-omit-frame-pointer"]
    ldflags += flags
elif debug:
    cflags += ["-O0", "-g3"]
else:
    cflags += ["-O2"]
if debug:
    macros.append(("HAK_DEBUG", "1"))

# The part that runs in the kernel, as an array of bytes.
subprocess.run(
    ["make", "--no-print-directory", "-C", "csrc/bpf", "OUT=../../build/bpf"], check=True
)

core = Extension(
    "hak2k._core",
    sources=["hak2k/_core.pyx", *sorted(glob("csrc/hak_*.c"))],
    depends=[
        *sorted(glob("csrc/*.h")),
        *sorted(glob("hak2k/*.pxd")),
        "build/bpf/hak_probe_code.h",
    ],
    include_dirs=["csrc", "build/bpf"],
    define_macros=macros,
    extra_compile_args=cflags,
    extra_link_args=ldflags,
    libraries=["crypto", "bpf"],
)

setup(
    ext_modules=cythonize(
        [core],
        build_dir="build/cython",
        language_level=3,
        compiler_directives={"binding": True, "embedsignature": False},
    )
)
