"""`python -m wenxin_runtime.engine`: what the server starts. Not for people."""

import os
import sys

# Before torch loads OpenMP: its threads sleep at the end of an operator instead of spinning. On cores shared with other
# processes (the server, other pods) spinning threads hold the core that the last thread of an operator waits for;
# sleeping ones were 2 to 4 times faster there, and no slower on idle cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from wenxin_runtime.engine.process import main

if __name__ == "__main__":
    sys.exit(main())
