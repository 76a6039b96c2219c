"""`wenxin-runtime serve` with another engine: python serve_with.py CONFIG_JSON ENGINE_COMMAND..."""

import sys

from wenxin_runtime import config as runtime_config
from wenxin_runtime.__main__ import exit_status
from wenxin_runtime.server.node import serve_node
from wenxin_runtime.server.serve import serve

if __name__ == "__main__":
    config = runtime_config.from_json(sys.argv[1])
    sys.exit(exit_status(lambda: serve_node(config) if config.node_rank else serve(config, sys.argv[2:])))
