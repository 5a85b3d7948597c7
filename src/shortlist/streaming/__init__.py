"""What the single consumer does, for whole populations: a Spark job over the same log, and ALS on what it leaves.

Everything but `aggregate` needs pyspark and Java and lives in an environment of its own (docs/streaming.md).
"""
