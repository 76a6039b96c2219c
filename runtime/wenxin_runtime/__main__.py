"""The command `wenxin-runtime`: serve, download, cache, fixture, inspect. Each imports what it needs when it runs."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from wenxin_runtime import __version__, config, termination
from wenxin_runtime.download import options as download_options
from wenxin_runtime.errors import ConfigError, RuntimeFailure

_SERVE_EXAMPLES = """\
examples:
  wenxin-runtime serve ./ERNIE-4.5-0.3B-PT
  wenxin-runtime serve ./ERNIE-4.5-0.3B-PT --host 0.0.0.0 --served-model-name ernie-4.5 --max-num-seqs 64
  wenxin-runtime serve ./ERNIE-4.5-0.3B-PT @flags          # one --flag=value per line; # starts a comment

then:
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "你好"}], "stream": true}'

It listens at once: /health says that it lives, /health/ready when it can serve, /load and /metrics how busy it is.
SIGTERM drains: nothing that was accepted is cut off.
"""

_EXAMPLES = """\
examples:
  wenxin-runtime fixture /tmp/tiny                         # a checkpoint with random weights, no download
  wenxin-runtime serve /tmp/tiny
  wenxin-runtime fixture /tmp/thinks --thinking            # one that thinks and calls tools
  wenxin-runtime download hf://baidu/ERNIE-4.5-0.3B-PT ./ERNIE-4.5-0.3B-PT
  wenxin-runtime inspect ./ERNIE-4.5-0.3B-PT               # is it complete, what is it, which digest?
"""


_DOWNLOAD_EXAMPLES = """\
examples:
  wenxin-runtime download hf://baidu/ERNIE-4.5-0.3B-PT ./ERNIE-4.5-0.3B-PT
  wenxin-runtime download modelscope://PaddlePaddle/ERNIE-4.5-0.3B-PT ./ERNIE-4.5-0.3B-PT
  wenxin-runtime download https://models.example.com/ernie/ ./ernie --checksums SHA256SUMS
  AWS_ENDPOINT_URL=http://minio:9000 wenxin-runtime download s3://models/ernie ./ernie

The files gather in DIRECTORY.partial; a second run goes on where the first one ended. Each is verified, and DIRECTORY
appears by one rename when all are. Only a checkpoint's files are fetched: no pickles, no code.

environment:
  HF_TOKEN, HF_ENDPOINT; MODELSCOPE_API_TOKEN, MODELSCOPE_DOMAIN; WENXIN_DOWNLOAD_TOKEN (a bearer token for https://)
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE

exit codes: 10-19 the same command may succeed later, 20-29 something must be mended first.
"""


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are ConfigErrors, so that they reach the termination log too."""

    def __init__(self, **options: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            fromfile_prefix_chars="@",
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        line = arg_line.strip()
        return [] if not line or line.startswith("#") else [line]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    return exit_status(lambda: _run(argv))


def exit_status(command: Callable[[], None]) -> int:
    """Run `command`; return 0, or the exit code of its failure, which also goes to the termination log."""
    try:
        command()
    except RuntimeFailure as failure:
        print(f"wenxin-runtime: {failure.reason}: {failure}", file=sys.stderr)  # noqa: T201 - a command's own voice
        termination.report_failure(failure)
        return failure.exit_code
    except Exception as failure:
        termination.report_failure(failure)
        raise
    return 0


def _run(argv: Sequence[str] | None) -> None:
    args = _parser().parse_args(argv)
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wenxin-runtime", description="Serve ERNIE 4.5 (文心4.5) models.", epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"wenxin-runtime {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve", help="serve a checkpoint over the OpenAI API", description=_serve.__doc__, epilog=_SERVE_EXAMPLES
    )
    config.add_flags(serve)
    serve.set_defaults(run=_serve)
    download = commands.add_parser(
        "download",
        help="fetch a checkpoint and verify it",
        description=_download.__doc__,
        epilog=_DOWNLOAD_EXAMPLES,
    )
    download_options.add_flags(download)
    download.set_defaults(run=_download)
    _add_cache(commands)
    fixture = commands.add_parser("fixture", help="write a checkpoint of random weights", description=_fixture.__doc__)
    _add_fixture_flags(fixture)
    fixture.set_defaults(run=_fixture)
    inspect = commands.add_parser("inspect", help="verify and describe a checkpoint", description=_inspect.__doc__)
    inspect.add_argument("model_dir", metavar="MODEL_DIR", help="directory with config.json and *.safetensors")
    inspect.set_defaults(run=_inspect)
    return parser


def _add_cache(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "count or flush the answers that Redis keeps for a server's model"
    cache = commands.add_parser("cache", help=text, description=_cache.__doc__)
    cache.add_argument("action", choices=("stats", "flush"))
    cache.add_argument("--server", default="http://127.0.0.1:8000", help="whose answers (default: %(default)s)")
    cache.add_argument("--all", action="store_true", help="the answers of all models; no server is asked")
    cache.add_argument("--redis-url", help="as for serve (default: $WENXIN_REDIS_URL)")
    cache.add_argument("--redis-url-file", help="as for serve (default: $WENXIN_REDIS_URL_FILE)")
    cache.add_argument("--redis-ca-file", help="as for serve (default: $WENXIN_REDIS_CA_FILE)")
    cache.add_argument("--yes", action="store_true", help="flush without being asked")
    cache.add_argument("-o", "--output", choices=("text", "json"), default="text")
    cache.set_defaults(run=_cache)


def _add_fixture_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="directory to write to; made if missing")
    parser.add_argument("--arch", default="ernie4_5", help="ernie4_5 or ernie4_5_moe (default: %(default)s)")
    parser.add_argument(
        "--size",
        default="tiny",
        help="tiny, or the released shape: 0.3b (ernie4_5), 21b-a3b (ernie4_5_moe); 0.7b-a0.2b (ernie4_5_moe) is the "
        "latter made small (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, help="rows of the embedding (default: the size's own)")
    parser.add_argument(
        "--thinking", action="store_true", help="with the chat template of the thinking models, which call tools too"
    )


def _serve(args: argparse.Namespace) -> None:
    """Serve a checkpoint over the OpenAI API until SIGTERM."""
    from wenxin_runtime.server.node import serve_node  # noqa: PLC0415 - see the module's docstring
    from wenxin_runtime.server.serve import serve  # noqa: PLC0415 - same

    settings = config.from_args(args)
    (serve_node if settings.node_rank else serve)(settings)


def _fixture(args: argparse.Namespace) -> None:
    """Write a complete checkpoint with random weights: for tests, demos and benchmarks."""
    from wenxin_runtime import fixture  # noqa: PLC0415 - see the module's docstring

    fixture.write(args.out, args.arch, args.size, args.seed, args.dtype, args.vocab_size, thinking=args.thinking)


def _download(args: argparse.Namespace) -> None:
    """Fetch a checkpoint from a hub, a web server or a bucket, verify it and print what it is, as JSON."""
    from wenxin_runtime.download.session import download  # noqa: PLC0415 - see the module's docstring

    described = download(download_options.from_args(args))
    print(msgspec.json.encode(described).decode())  # noqa: T201 - the command's result
    termination.report(described)


def _cache(args: argparse.Namespace) -> None:
    """Count or flush the answers that Redis keeps for the model of a server; it goes on serving meanwhile."""
    from wenxin_runtime.server.answers import upkeep  # noqa: PLC0415 - see the module's docstring

    upkeep.run(args)


def _inspect(args: argparse.Namespace) -> None:
    """Verify a checkpoint without loading it and print what it is, as JSON."""
    from wenxin_runtime import weights  # noqa: PLC0415 - see the module's docstring

    facts = weights.inspect(args.model_dir)
    print(msgspec.json.encode(facts).decode())  # noqa: T201 - the command's result
    termination.report(msgspec.to_builtins(facts))


if __name__ == "__main__":
    sys.exit(main())
