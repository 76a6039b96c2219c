"""`python -m wenxin_runtime.engine`: what the server starts. Not for people."""

import sys

from wenxin_runtime.engine.process import main

if __name__ == "__main__":
    sys.exit(main())
