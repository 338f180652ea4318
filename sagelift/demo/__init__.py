"""`sagelift demo`: the whole loop on real components, from an empty folder to the report of an experiment.

Stages in order:

1. `catalogue`: make the sample catalogue (`samples`, `drawings`) or read a feed, and publish it.
2. `history`: shoppers (`shoppers`) visit a shop with conventional recommendations (`shop`), and leave events.
3. `model`: train ItemSage on the events, release it and embed the catalogue.
4. `freshness`: change products and time until their new embeddings are retrievable.
5. `experiment`: the same shoppers visit a shop with two recommenders, one for each arm.
6. `report`: analyze the experiment.

`demo` runs the stages; `world` keeps the shoppers between the stages; `waiting` waits for the consumers;
`config` holds the sizes of a demo, `results` what it reports; `outlines` are the shapes that `drawings` draws.
"""
