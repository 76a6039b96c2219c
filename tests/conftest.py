"""Where there is no GPU, Triton's kernels run in its interpreter; it asks before anything imports Triton.

No test judges time: on a busy machine an example, and the making of one, may take any.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

if not any(Path(driver).exists() for driver in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
