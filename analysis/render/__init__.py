"""The same report for the terminal, in Markdown, in JSON, as tables and as a self-contained HTML page.

Nothing here computes statistics. Modules:
    wording                          numbers and sentences, the same in every output
    terminal, markdown, json, frame  one output each
    html, charts, page               the HTML page, its pictures, and its template
    plan, simulation                 the outputs of a plan and of a simulation
    schema                           JSON Schemas of everything that is printed as JSON
    files                            atomic writing of files
"""
