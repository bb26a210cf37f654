"""Clients of the servers that keep buckets: where they are, and by whose credentials they are asked."""

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from obstore.store import GCSStore, S3Store

from pipelines.common.text import one_line

SCHEMES = ("s3", "gs")
_SILENCE_S = 30.0  # of a connection that sends nothing
ACCESS = {
    "s3": "credentials are taken from the usual places (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws, the machine's role), a "
    "server other than Amazon's from AWS_ENDPOINT_URL, the region from AWS_REGION",
    "gs": "credentials are taken from GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login` or the "
    "machine's service account",
}


class StorageError(ValueError):
    """The storage, or a file in it, can't be used; the message says what to do."""


@cache
def store(scheme: str, bucket: str) -> Any:
    """Return the client of a bucket, one for a process; all threads share it."""
    common: dict[str, Any] = {
        "client_options": {"connect_timeout": "5s", "read_timeout": f"{_SILENCE_S:.0f}s", "timeout": "15m"},
        # For the parts of large objects; all else is asked again by `BucketPath`.
        "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
    }
    if scheme == "gs":
        return GCSStore(bucket, **common)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint:  # of a server of one's own, which need not have a name for each bucket
        common["client_options"]["allow_http"] = endpoint.startswith("http://")
        common |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    region, provider = _aws()
    return S3Store(bucket, region=region, credential_provider=provider, **common)


def _aws() -> tuple[str, Any]:
    """Return the region, and what asks for credentials wherever botocore finds them. Raise StorageError for none."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        found, region = session.get_credentials(), session.get_config_variable("region")
    except BotoCoreError as error:
        raise StorageError(f"s3:// can't be used: {one_line(error)}; {ACCESS['s3']}") from None
    if found is None:
        raise StorageError(f"s3:// can't be used: no credentials found; {ACCESS['s3']}")
    credentials = found

    def provide() -> Any:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),  # botocore renews them before they end
        }

    return os.environ.get("AWS_REGION") or region or "us-east-1", provide
