"""Uploaded files, fetched URLs and buckets."""

import dataclasses
from pathlib import Path

from shared.settings.setting_types import (
    ABSOLUTE_FOLDERS,
    BOOLEAN,
    HTTP_URL,
    PATH,
    TEXT,
    IPNetwork,
    SettingType,
    choice,
    lenient,
    listed,
    matching,
    networks,
    number,
    pairs,
    setting,
    whole,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssetSettings:
    """Assets"""

    asset_dir: Path = setting(
        "ASSET_STORAGE_DIR",
        PATH,
        Path("/tmp/assets"),  # noqa: S108 - the original's default
        "Folder of uploaded files, shared by gateways and workers",
    )
    asset_store: str = setting(
        "RTEMBED_ASSET_STORE",
        SettingType(
            matching(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/[A-Za-z0-9_.\-/]*)?"),
            "s3://BUCKET or s3://BUCKET/PREFIX, the prefix of letters, digits and _.-/",
        ),
        "",
        "Bucket that holds uploaded files instead of the folder, reached with the AWS_ variables below",
    )
    skip_media_verification: bool = setting(
        "VSS_SKIP_INPUT_MEDIA_VERIFICATION",
        SettingType(bool, "any text"),
        False,
        "Any non-empty value, even 0 or false: accept uploads without opening them",
    )
    upload_limit_bytes: int = setting(
        "RTEMBED_MAX_UPLOAD_BYTES", whole(1, 100 * 10**9), 100 * 10**9, "Largest upload in bytes"
    )
    storage_limit_gb: int = setting(
        "MAX_ASSET_STORAGE_SIZE_GB",
        whole(0, 10**6),
        0,
        "Maximum GiB of uploaded files; above 90 % of it the oldest unused ones are deleted; 0: no limit",
    )
    asset_max_age_hours: float = setting(
        "ASSET_MAX_AGE_HOURS",
        number(0, 10**6),
        0.0,
        "Hours after which an unused uploaded file is deleted; 0: never",
    )
    max_file_minutes: int = setting(
        "RTEMBED_MAX_FILE_DURATION", whole(0, 10**6), 0, "Longest video that is embedded, in minutes; 0: any"
    )

    download_timeout: int = setting(
        "ASSET_DOWNLOAD_TOTAL_TIMEOUT",
        lenient(whole(1, 86_400), 300),
        300,
        "Seconds that fetching a URL may take",
    )
    download_connect_timeout: int = setting(
        "ASSET_DOWNLOAD_CONNECT_TIMEOUT",
        lenient(whole(1, 86_400), 10),
        10,
        "Seconds to reach the host of a URL",
    )
    download_limit_gb: float = setting(
        "ASSET_DOWNLOAD_MAX_FILE_SIZE_GB",
        number(1e-9, 100),
        8.0,
        "Largest file fetched over http(s) or given as a data URL, in GiB",
    )
    download_redirects: int = setting(
        "ASSET_DOWNLOAD_MAX_REDIRECTS",
        lenient(SettingType(lambda text: min(max(int(text), 0), 10), "a whole number, taken as 0 to 10"), 0),
        0,
        "Redirects that are followed",
    )
    download_tokens: tuple[tuple[str, str], ...] = setting(
        "ASSET_DOWNLOAD_AUTH_TOKENS",
        SettingType(pairs, "domain=value, separated by ;"),
        (),
        "Authorization header per host, sent over https only",
        secret=True,
    )
    download_unverified_hosts: tuple[str, ...] = setting(
        "ASSET_DOWNLOAD_SSL_SKIP_VERIFY_DOMAINS",
        listed(","),
        (),
        "Hosts whose TLS certificate is not verified",
    )
    block_private_networks: bool = setting(
        "RTEMBED_BLOCK_PRIVATE_NETWORKS",
        BOOLEAN,
        False,
        "Also refuse URLs with hosts in private networks",
    )
    rtsp_networks: tuple[IPNetwork, ...] = setting(
        "RTEMBED_RTSP_ALLOWED_NETWORKS",
        SettingType(networks, "networks such as 10.0.0.0/8, separated by ,"),
        (),
        "Networks that cameras may be in; empty: any but link-local ones and metadata services",
    )
    file_url_dirs: tuple[str, ...] = setting(
        "FILE_URL_ALLOWED_DIRS",
        ABSOLUTE_FOLDERS,
        (),
        "Folders in which file:// URLs and server paths (`filename` of POST /v1/files) may lie, symbolic "
        "links resolved; empty: none",
    )
    any_server_path: bool = setting(
        "RTEMBED_ANY_SERVER_PATH",
        BOOLEAN,
        False,
        "Let clients register any file that a gateway can read, as RT-Embed does; /content then serves every "
        "video and image of the machine",
    )
    s3_access_key: str | None = setting(
        "AWS_ACCESS_KEY_ID",
        TEXT,
        None,
        "Access key for s3:// URLs and the asset store, which without one takes the role of its container or "
        "instance",
    )
    s3_secret_key: str | None = setting(
        "AWS_SECRET_ACCESS_KEY", TEXT, None, "Secret of AWS_ACCESS_KEY_ID", secret=True
    )
    s3_session_token: str | None = setting(
        "AWS_SESSION_TOKEN", TEXT, None, "Session token of temporary credentials", secret=True
    )
    aws_region: str | None = setting(
        "AWS_REGION", TEXT, None, "Region of the buckets; wins over AWS_DEFAULT_REGION"
    )
    s3_region: str = setting("AWS_DEFAULT_REGION", TEXT, "us-east-1", "Region of the buckets")
    s3_endpoint_url: str | None = setting(
        "S3_ENDPOINT_URL", HTTP_URL, None, "S3 service other than Amazon's; wins over AWS_ENDPOINT_URL_S3"
    )
    aws_endpoint_url_s3: str | None = setting(
        "AWS_ENDPOINT_URL_S3", HTTP_URL, None, "S3 service other than Amazon's"
    )

    s3_addressing: str = setting(
        "RTEMBED_S3_ADDRESSING",
        choice("path", "virtual"),
        "path",
        "Where an S3 request names its bucket: in the path, as MinIO and most others want it, or in the host",
    )
