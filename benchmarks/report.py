"""Experiment reports over ten and a hundred million users, against bare scans, tea-tasting and statsmodels.

Measures CPU seconds and the peak of memory above a bare scan. The goals are at most 1.3 times the CPU of the floor (2.5
with segments), at most 64 MB above it, at most 1.2 times the CPU per user for ten times as many users, and no more CPU
than tea-tasting and statsmodels. Also measures the boundaries of 28 interim analyses (at most 50 ms) and the bootstrap.

Each run is a process of its own that imports first and then measures. The floor is one hand-written DuckDB query over
the same Parquet file with the same sums by arm. 5 % of the users are buyers with lognormal GMV, with a correlated
covariate, impressions and clicks, on 14 days and in 5 segments. A hundred million users are ten links to the file of
ten million, because a report does not depend on differences between users.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Row, Say, compared, figure

USERS = 10_000_000
RUNS = 5
PEER_RUNS = 3

_MEASURE = """
import json, sys, time
def peak():
    # Not ru_maxrss, which begins with the size of the process that started this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
def run(function):
    start = time.process_time()
    function()
    print(json.dumps({"cpu": time.process_time() - start, "peak": peak()}))
"""

_FLOOR = """
import duckdb
def scan():
    columns = ["clicks", "gmv", "gmv_pre", "impressions"]
    pairs = [("gmv", "gmv"), ("gmv", "gmv_pre"), ("gmv_pre", "gmv_pre")]
    pairs += [("clicks", "clicks"), ("clicks", "impressions"), ("impressions", "impressions")]
    sums = [f"sum({a}::DOUBLE)" for a in columns] + [f"sum({a}::DOUBLE * {b}::DOUBLE)" for a, b in pairs]
    with duckdb.connect() as connection:
        query = f"SELECT variant, count(*), {', '.join(sums)} FROM read_parquet('{sys.argv[1]}') GROUP BY variant"
        connection.execute(query).fetchall()
run(scan)
"""

_OURS = """
import duckdb, scipy.special, sqlalchemy.dialects.postgresql
from analysis.metrics import Mean, Ratio
from analysis.report import analyze
from analysis.sources.user_table import UserTable
metrics = [
    Mean(name="gmv", column="gmv", unit="money", covariate="gmv_pre"),
    Ratio(name="ctr", numerator="clicks", denominator="impressions", unit="share"),
]
run(lambda: analyze(UserTable(sys.argv[1], **KEYS), metrics, "0", "1"))
"""

_TEA_TASTING = """
import ibis, tea_tasting
metrics = {
    "gmv": tea_tasting.Mean("gmv", "gmv_pre"),
    "ctr": tea_tasting.RatioOfMeans("clicks", "impressions"),
}
def compare():
    users = ibis.duckdb.connect().read_parquet(sys.argv[1])
    tea_tasting.Experiment(metrics).analyze(users).to_dicts()
run(compare)
"""

_STATSMODELS = """
import duckdb, numpy as np
import statsmodels.api as sm
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
def compare():
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        query = f"SELECT variant, gmv, gmv_pre, clicks, impressions FROM read_parquet('{sys.argv[1]}')"
        d = {name: column.astype(float) for name, column in connection.execute(query).fetchnumpy().items()}
    treated = d["variant"] == 1
    CompareMeans(DescrStatsW(d["gmv"][treated]), DescrStatsW(d["gmv"][~treated])).ttest_ind(usevar="unequal")
    design = np.column_stack([np.ones(len(treated)), treated, d["gmv_pre"]])
    sm.OLS(d["gmv"], design).fit(cov_type="HC1")
    parts = []
    for mine in (treated, ~treated):
        rate = d["clicks"][mine].sum() / d["impressions"][mine].sum()
        parts.append(DescrStatsW((d["clicks"][mine] - rate * d["impressions"][mine]) / d["impressions"][mine].mean()))
    CompareMeans(*parts).zconfint_diff(usevar="unequal")
run(compare)
"""


def rows(say: Say) -> list[Row]:
    """Measure all figures."""
    folder = Path(tempfile.mkdtemp(prefix="report-"))
    try:
        say("generating ten million users")
        users = folder / "users0.parquet"
        _generate(users)
        return [*_against_floor(users, say), *_scale(users, say), *_peers(users, say), *_bounds(say), *_bootstrap(say)]
    finally:
        shutil.rmtree(folder)


def _against_floor(users: Path, say: Say) -> list[Row]:
    codes = {"floor": _FLOOR, "report": _ours(), "segments": _ours(day="day", segment="segment")}
    runs_by_name = _in_turn(codes, str(users), RUNS, say)
    cpu = {name: [run["cpu"] for run in runs] for name, runs in runs_by_name.items()}
    beside = [
        run["peak"] - floor["peak"] for run, floor in zip(runs_by_name["report"], runs_by_name["floor"], strict=True)
    ]
    return [
        compared("report_cpu", "s", cpu["report"], "bare_scan", cpu["floor"], at_most=1.3),
        figure("report_memory", "MB", beside, at_most=64),
        compared("report_segments_cpu", "s", cpu["segments"], "bare_scan", cpu["floor"], at_most=2.5),
    ]


def _scale(users: Path, say: Say) -> list[Row]:
    """Compare CPU per user and memory of a hundred million users with those of ten million."""
    for number in range(1, 10):
        (users.parent / f"users{number}.parquet").hardlink_to(users)
    glob = str(users.parent / "users*.parquet")
    both = [(_child(_ours(), glob), _child(_ours(), str(users))) for _ in range(PEER_RUNS)]
    many, few = [a for a, _ in both], [b for _, b in both]
    say("a hundred million users: " + ", ".join(f"{run['cpu']:.2f} s" for run in many))
    per_user = [run["cpu"] / (10 * USERS) * 1e9 for run in many]
    growth = [a["peak"] - b["peak"] for a, b in zip(many, few, strict=True)]
    return [
        compared(
            "report_scale",
            "ns per user",
            per_user,
            "ten_million",
            [run["cpu"] / USERS * 1e9 for run in few],
            at_most=1.2,
        ),
        figure("report_scale_memory", "MB", growth, at_most=64),
    ]


def _peers(users: Path, say: Say) -> list[Row]:
    """Compare with tea-tasting (on Ibis and DuckDB) and statsmodels, if they are installed."""
    measured = []
    for package, code in (("tea_tasting", _TEA_TASTING), ("statsmodels", _STATSMODELS)):
        if importlib.util.find_spec(package) is None:
            say(f"{package} is not installed: no comparison with it")
            continue
        runs = _in_turn({"report": _ours(), package: code}, str(users), PEER_RUNS, say)
        cpu = {name: [run["cpu"] for run in those] for name, those in runs.items()}
        measured.append(compared(f"vs_{package}", "s", cpu["report"], package, cpu[package], at_most=1.0))
    return measured


def _bounds(say: Say) -> list[Row]:
    """Lan-DeMets O'Brien-Fleming boundaries of 28 daily looks."""
    code = """
import scipy.special, scipy.optimize
from analysis.sequential import SpendingDesign
run(lambda: SpendingDesign(28.0).looks([float(day) for day in range(1, 29)]))
"""
    seconds = [_child(code)["cpu"] for _ in range(RUNS)]
    say(f"bounds of 28 looks: {statistics.median(seconds) * 1e3:.1f} ms")
    return [figure("bounds_28", "ms", [1e3 * s for s in seconds], at_most=50)]


def _bootstrap(say: Say) -> list[Row]:
    """Bootstrap the GMV ratio of a million users, 3 % of them buyers, against NumPy that draws every user."""
    users = """
import numpy as np
rng = np.random.default_rng(7)
arms = [np.where(rng.random(500_000) < 0.03, rng.lognormal(8, 1, 500_000), 0.0) for _ in range(2)]
"""
    ours = f"""{users}
import scipy.special
from analysis.resampling import bootstrap
run(lambda: bootstrap(*arms, rng, resamples=10_000))
"""
    floor = f"""{users}
def plain():
    for _ in range(50):
        control, treatment = (arm[rng.integers(0, arm.size, arm.size)].mean() for arm in arms)
        treatment / control
run(plain)
"""
    runs_by_name = {name: [_child(code) for _ in range(PEER_RUNS)] for name, code in (("ours", ours), ("floor", floor))}
    say("bootstrap: " + ", ".join(f"{run['cpu']:.1f} s" for run in runs_by_name["ours"]))
    per_resample = {
        name: [run["cpu"] * 1e3 / (10_000 if name == "ours" else 50) for run in runs]
        for name, runs in runs_by_name.items()
    }
    row = compared("bootstrap", "ms per resample", per_resample["ours"], "numpy_every_user", per_resample["floor"])
    growth = [a["peak"] - b["peak"] for a, b in zip(runs_by_name["ours"], runs_by_name["floor"], strict=True)]
    return [row, figure("bootstrap_memory", "MB", growth, at_most=64)]


def _ours(**keys: str) -> str:
    return _OURS.replace("KEYS", repr(keys))


def _in_turn(codes: dict[str, str], path: str, runs: int, say: Say) -> dict[str, list[dict[str, float]]]:
    """Run each code in a process of its own, alternately, after one round that does not count."""
    runs_by_name: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
    for number in range(1 + runs):
        for name, code in codes.items():
            measured = _child(code, path)
            if number:
                runs_by_name[name].append(measured)
    for name, those in runs_by_name.items():
        say(f"{name}: {statistics.median(run['cpu'] for run in those):.3f} s, {those[-1]['peak']:.0f} MB at its peak")
    return runs_by_name


def _child(code: str, *arguments: str) -> dict[str, float]:
    command: Sequence[str] = (sys.executable, "-c", _MEASURE + code, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measured process failed:\n{done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _generate(path: Path) -> None:
    import duckdb

    normal = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"""
            COPY (
                WITH drawn AS (
                    SELECT i, random() AS arm, random() AS views, random() AS rate, random() AS buys,
                           {normal} AS taste, {normal} AS before, {normal} AS now
                    FROM range({USERS}) AS t(i)
                )
                SELECT (arm < 0.5)::INTEGER AS variant,
                       DATE '2026-06-01' + (i % 14)::INTEGER AS day,
                       ['de', 'fr', 'it', 'pl', 'uk'][1 + i * 7919 % 5] AS segment,
                       CASE WHEN buys < 0.05 THEN round(exp(8 + 0.8 * taste + 0.6 * now))::BIGINT ELSE 0 END AS gmv,
                       CASE WHEN buys < 0.06 THEN round(exp(8 + 0.8 * taste + 0.6 * before))::BIGINT ELSE 0 END
                           AS gmv_pre,
                       floor(1 + 20 * views)::INTEGER AS impressions,
                       floor((1 + 20 * views) * 0.3 * rate)::INTEGER AS clicks
                FROM drawn
            ) TO '{path}' (FORMAT parquet)""")
