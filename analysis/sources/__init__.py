"""Where aggregates come from: an experiment's own tables, or a file, data frame or table with one row per user.

Every source answers `collect` with aggregates from one query; no row of a user leaves the database.

Modules:
    base               what every source returns
    collection         the steps that every collection takes
    experiment_schema  the tables of an experiment
    experiment_query   the aggregate query over these tables
    experiment_tables  the source that runs it: ExperimentTables
    user_rows          what the sources with one row per user share, up to the open session
    user_query         the aggregate query over these rows, and its checks; `user_columns` says which column is what
    tails              tail counts that follow from a Parquet file's statistics
    user_table, sql_table, spark_frame    the sources with one row per user: UserTable, SqlTable, SparkFrame
"""

from analysis.sources.base import Collected, Facts, Source
from analysis.sources.experiment_tables import ExperimentTables
from analysis.sources.spark_frame import SparkFrame
from analysis.sources.sql_table import SqlTable
from analysis.sources.user_table import UserTable

__all__ = ["Collected", "ExperimentTables", "Facts", "Source", "SparkFrame", "SqlTable", "UserTable"]
