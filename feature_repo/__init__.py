"""Product features in Feast: definitions, guarded online stores, the history, and jobs over both.

Data passes through the modules in this order:

    definitions      Feast's entities, views and services; `derived` computes features on demand
    rows, recent     what is written and read: products, offers, embeddings; the recent products of shoppers
    store            `ProductFeatureStore`, the facade; `opening` makes and opens the store's folder
    views, values    rows -> the form of each view (`online_row`) -> bytes of Feast's values, and back
    history          every row, in append-only Parquet parts
    stores           the newest row of each product, in an online store
    jobs             from the history to the online store
    monitoring       how fresh and complete the features are

For Feast's own files: `profile` (`feature_store.yaml`), `registry` (when to apply definitions), `locks`, and `repo`,
which `feast apply` imports. `files`, `times` and `errors` are used by all of them.
"""
