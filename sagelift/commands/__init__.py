"""The `sagelift` command line.

`cli` assembles the commands; each noun has a module: analyze, catalog, demo, dlq, experiment, features, model, plan,
report, sample, serve, settings, stream, up. A command parses its options, calls one function of the library and prints
the result. Shared by all:

    option_groups        options as dataclasses
    analysis_options, metric_options, analysis_texts, analysis_output
                         what the commands of the analysis share
    engines              options of jobs over the whole catalogue
    times                times and durations as users write them
    console              output
    failures             error messages and exit codes
"""
