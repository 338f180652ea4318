"""Releases: put a trained model into service without a gap.

The flow is in `release.make_live`: serve the new model beside the live one, embed the catalogue with it, check it,
switch, and embed what changed during the switch. The modules, in the order in which it uses them:

    release           `release_model` and `make_live`: the flow
    catalogue_shards  cuts the catalogue into shards and runs work on them, here or in other processes
    reembed           embeds all products whose vectors are missing or out of date
    check             refuses a release that is much worse than the live one, or too different
    reconcile         compares all products with their vectors at the end
"""
