"""Fetching a checkpoint into a directory: whole, verified, and never half seen. Imports no torch.

    wenxin-runtime download SOURCE DIRECTORY [--revision R] [--mirror URL] [--checksums FILE] [--connections 8]
                            [--chunk-bytes 16777216] [--attempts 8] [--retry-delay 1] [--stall-timeout 30]
                            [--s3-addressing auto|path|virtual] [--allow-http-redirects] [--host 127.0.0.1] [--port P]
                            [--log-level info]

    SOURCE      hf://ORG/NAME   modelscope://ORG/NAME   https://HOST/PATH/ (http:// too)   s3://BUCKET[/PREFIX]
    DIRECTORY   where the checkpoint appears by one rename. Its parent must be writable: the files gather in
                DIRECTORY.partial and DIRECTORY.lock lies beside, so DIRECTORY is no mount point itself
    --revision  branch, tag or commit of hf:// (default main) and modelscope:// (default master); what it means is
                resolved once, at the start, and kept across restarts of the same partial download
    --mirror    speak to this URL instead of the hub itself, or of AWS_ENDPOINT_URL
    --checksums file in the format of sha256sum; each file of the checkpoint must stand in it

Environment: HF_TOKEN, HF_ENDPOINT; MODELSCOPE_API_TOKEN, MODELSCOPE_DOMAIN; WENXIN_DOWNLOAD_TOKEN (Bearer, https://);
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (none: anonymous), AWS_REGION, AWS_ENDPOINT_URL;
HTTPS_PROXY, HTTP_PROXY, NO_PROXY; SSL_CERT_FILE (a bundle in place of the built-in one). A credential goes only to the
host it is for, never along a redirect to another, and into no log.

GET /load on --port (unset: nothing listens; also /health), from the first moment to the end:
    {"phase": "listing" | "downloading" | "inspecting", "done": BYTES, "total": BYTES or 0, "files": N,
     "files_total": N, "bytes_per_second": X}
`done` counts what is on disk, earlier runs' bytes included; `files` are those verified.

Exit 0: DIRECTORY is complete; stdout and the termination log hold what `wenxin-runtime inspect` says of it and, under
`revision`, what was fetched (a commit; for https:// and s3:// a hash of the listing). A DIRECTORY that is complete, of
the same SOURCE and --revision, is checked by its files' sizes and left, without asking SOURCE: it works offline.
Else `{"reason", "message"}` as everywhere, and an exit code whose ten says whether the same command may succeed later:
    10-19  run again     10 DownloadInterrupted (SIGTERM)   11 DownloadFailed (network, 5xx, 429)
                         12 DownloadBusy (another one fetches into DIRECTORY)
    20-29  mend first    20 NotFound   21 Unauthorized   22 NotEnoughSpace   23 ChecksumMismatch   24 InvalidListing
                         25 InsecureSource (untrusted certificate, redirect to plain http)
    2 InvalidFlags (also: DIRECTORY holds something else)   3 InvalidCheckpoint (Paddle layout, incomplete, not ERNIE)
After a kill at any moment the same command goes on; it loses at most the chunks in flight.

options     the flags
selection   which of a source's files make a checkpoint, and which listings are refused
listing     what a source yields: files with size, digest and address, frozen
sources     SOURCE -> hub, modelscope, https, s3 (sigv4 signs, bucket reads its listings): each speaks one protocol
http        one request: redirects, credentials, failures by name;  retrying  when to try again
proxies     through whom;  pace  how slowly an answer may come
ledger      which chunks of a file are there
folder      the partial download on disk: plan, chunks, publication;  lock  one downloader at a time
fetch       the pool that fills a folder from a listing; knows no protocol
digests     what the bytes on disk hash to;  threads  calls that block
progress    how far it is, in words and as /load
session     the whole, in order
"""
