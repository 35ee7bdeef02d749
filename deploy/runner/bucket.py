"""`python -m deploy.runner.bucket`: create the cold tier's bucket, as the one-shot container with MinIO's client does.

Owns the runner's only use of an S3 client. Ends with 0 when the bucket exists afterwards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ALREADY_THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def create_bucket(settings: Mapping[str, str]) -> str:
    """Create the bucket that S3_BUCKET names and return its name. Raises ClientError, BotoCoreError."""
    client = boto3.client(
        "s3",
        endpoint_url=settings["S3_ENDPOINT"],
        region_name=settings["AWS_REGION"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}, connect_timeout=5, read_timeout=20),
    )
    bucket = settings["S3_BUCKET"]
    try:
        client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in ALREADY_THERE:
            raise
    client.head_bucket(Bucket=bucket)
    return bucket


def main() -> int:
    try:
        bucket = create_bucket(os.environ)
    except KeyError as error:
        print(f"{error.args[0]} is not set", file=sys.stderr)
    except (BotoCoreError, ClientError) as error:
        print(f"the bucket was not created: {error}", file=sys.stderr)
    else:
        print(f"bucket {bucket} is there")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
