"""The consumer loop: read records, handle them in stages, then commit their offsets.

The modules, from the outside to the inside:

    watchdog     ends a process whose poll does not return
    loop         polls Kafka, gathers batches, hands them to the stages and commits them
    stages       the batches, and one thread for each stage with its retries
    partitions   the offsets to commit, to read again or to skip, for each assigned partition
    poison       stops the consumer when most messages cannot be used
    observer     reports of a consumer's work, for metrics and health
"""
