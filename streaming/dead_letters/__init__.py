"""Dead letters: records that a consumer cannot use, kept on `<topic>.dlq` until somebody replays them.

Data passes through the modules in this order:

    writer         a consumer's `FailedRecord` becomes a message on `<topic>.dlq`
    letters        `Letter`, the message as stored there; `LetterId`; `LetterFilter`
    bounded_reads  reads a range of a partition without a consumer group
    reader         `DeadLetterReader`: all, the newest, or one of the stored letters
    causes         groups thousands of letters by their few causes
    replay_log     `ReplayLog`: which letters were replayed, as recorded on `dlq.replayed`
    replay_plan    decides which message to send for a letter, or why to skip it
    replay         sends letters back to their topic, each once, at a limited rate
"""
