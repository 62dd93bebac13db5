"""Create the buckets named as arguments, where they are missing. Runs in the bucket job, with the administrator's keys."""

import os
import sys
import urllib.parse

from minio import Minio
from minio.error import S3Error


def make(endpoint: str, access_key: str, secret_key: str, names: list[str]) -> None:
    """Create each bucket; one that this identity owns already is left as it is. Any other refusal is raised."""
    url = urllib.parse.urlsplit(endpoint)
    client = Minio(url.netloc, access_key, secret_key, secure=url.scheme == "https", region="us-east-1")
    for name in names:
        try:
            client.make_bucket(name)
        except S3Error as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise
        sys.stdout.write(f"bucket {name}: there\n")


if __name__ == "__main__":
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    make(os.environ["INSTAR_S3_ENDPOINT"], *keys, sys.argv[1:])
