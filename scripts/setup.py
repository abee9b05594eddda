"""Everything that `make demo`, `make test` or `make check` needs on this machine; what is there already is not touched.

`scripts/setup demo|test|check` starts this with a Python that fits.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import coder_env
import common
import lab
import newer_debian
import object_stores
import platform_env
import python_packages
import system_packages


def main(target: str) -> int:
    """Bring in the system's packages and, meanwhile, the three Python environments."""
    if target not in system_packages.SETS:
        common.say(f"set up for what? one of: {', '.join(system_packages.SETS)}")
        return 2
    with common.alone(common.STAMPS / "lock"), ThreadPoolExecutor(max_workers=1) as beside:
        why = f"`make {target}`"
        lacking = system_packages.missing(system_packages.SETS[target])
        system_packages.check_rights([*lacking, *system_packages.venv_module()], why)
        python_packages.uv()
        # apt waits for the network and the disk most of the time; Python's packages need not wait for it.
        apt = beside.submit(system_packages.install, lacking, why)
        platform_env.ensure()
        if target != "check":
            coder_env.ensure()
            lab.ensure()
        if target == "test":
            object_stores.ensure()
            newer_debian.ensure()
        apt.result()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "demo"))
