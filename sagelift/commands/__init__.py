"""The `sagelift` command line.

`cli` assembles the commands; each noun has a module: analyze, catalog, demo, dlq, experiment, features, model, plan,
report, sample, serve, settings, stream, up. `materialize` is a command of features; `dlq_output` prints the results of
dlq. A command parses its options, calls one function of the library and prints the result. Shared by all:

    option_groups        options as dataclasses
    analysis_options, metric_options, option_order, analysis_texts, analysis_output
                         shared by the commands of the analysis
    engines              options of jobs over the whole catalogue
    times                times and durations as users write them
    console              output
    failures             error messages and exit codes
"""
