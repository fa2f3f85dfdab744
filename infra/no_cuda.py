"""End a build of a CPU image where CUDA came with torch: it would be gigabytes that nothing uses."""

import re
import sys
from importlib.metadata import distributions

CUDA = re.compile(r"nvidia-(?!ml-py$)|cuda-|triton$")  # nvidia-ml-py only asks a driver, if there is one

found = sorted({name for one in distributions() if CUDA.match(name := one.metadata["Name"].lower())})
if found:
    sys.exit(
        f"this is a CPU image, and torch brought {len(found)} CUDA packages ({', '.join(found[:3])}, …): "
        "give --build-arg TORCH_INDEX=URL, the address of an index of torch's CPU builds"
    )
