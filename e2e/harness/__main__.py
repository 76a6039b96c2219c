import sys

from e2e.harness.backend import Options
from e2e.harness.local import Local

l = Local()
if sys.argv[1] == "up":
    l.up(Options(nodes=int(sys.argv[2]) if sys.argv[2:] else 1, gpus=8))
elif sys.argv[1] == "down":
    l.down()
elif sys.argv[1] == "status":
    print(l.status())
