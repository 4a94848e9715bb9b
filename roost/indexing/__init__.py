"""A folder of images into a gateway's store, shard by shard: embedded, kept in Parquet, stored, written down."""

from roost.indexing.job import Failure, Report, index
from roost.indexing.ledger import Job, Ledger

__all__ = ["Failure", "Job", "Ledger", "Report", "index"]
