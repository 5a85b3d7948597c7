"""The Spark session of our programs, and what to say when a query fails."""

from __future__ import annotations

import os
import re
import sys

from pyspark.sql import SparkSession

_OURS = re.compile(r"shortlist\.[\w.]+Error: (.+)")


def open_session(name: str, tasks: int | None = None) -> SparkSession:
    """The session of spark-submit, or one on this machine, whose workers run this very Python unless told otherwise."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    if tasks is not None:
        builder = builder.config("spark.sql.shuffle.partitions", tasks)
    return builder.getOrCreate()


def cause(error: Exception) -> str | None:
    """The message of the error of ours that ended a query, out of Spark's pages; None where it was none of ours."""
    found = _OURS.search(str(error))
    return found[1] if found else None
