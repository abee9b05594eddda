"""Which keeper of artifacts the settings ask for."""

from __future__ import annotations

from fumehood.artifacts.local import LocalArtifacts
from fumehood.ports import Artifacts
from fumehood.settings import Settings

MIB = 1024 * 1024


def open_artifacts(settings: Settings) -> Artifacts:
    """Return the bucket that the settings name, tried by a small object, else the folder below the state folder."""
    if not settings.s3_endpoint:
        return LocalArtifacts(settings.state_dir / "artifacts")
    from fumehood.artifacts.cache import Cache
    from fumehood.artifacts.s3 import S3Artifacts
    from fumehood.artifacts.s3_client import S3Place

    place = S3Place(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
        secure=settings.s3_secure,
        prefix=settings.s3_prefix,
    )
    artifacts = S3Artifacts(place, Cache(settings.state_dir / "artifacts-cache", settings.s3_cache_mib * MIB))
    artifacts.check(create=settings.s3_create_bucket)
    return artifacts
