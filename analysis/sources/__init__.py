"""Where aggregates come from: the experiment's own tables, or a file, a data frame or a table with one row per user.

Both answer `collect` with the same thing, from one aggregate query. No row of a user leaves the database.
"""

from analysis.sources.base import Collected, Facts, Source
from analysis.sources.experiment_tables import ExperimentTables
from analysis.sources.spark_frame import SparkFrame
from analysis.sources.sql_table import SqlTable
from analysis.sources.user_table import UserTable

__all__ = ["Collected", "ExperimentTables", "Facts", "Source", "SparkFrame", "SqlTable", "UserTable"]
