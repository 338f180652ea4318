"""`sagelift experiment ...`, `sagelift assign` and `sagelift vectors`.

app        assembles the commands
files      validate, diff, publish, new-phase, schema: experiments as YAML files
lifecycle  the steps from draft to archived, ramp, hold, override
listing    list, show, history, audit
schedule   schedule, cancel, guard, tick: what a scheduler runs
database   migrate, openapi
layers, metrics, keys, units
           the groups below `sagelift experiment`
assign, vectors
           which arm a unit gets, and whether all implementations agree
options    options and the store that these commands share
"""
