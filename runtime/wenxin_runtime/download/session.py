"""One download from beginning to end."""

from wenxin_runtime.download.options import DownloadOptions
from wenxin_runtime.errors import DownloadFailed


def download(options: DownloadOptions) -> dict[str, object]:
    """Fetch what `options` name; return what `wenxin-runtime inspect` says of it, and `revision`."""
    raise DownloadFailed(f"{options.source}: not there yet")
