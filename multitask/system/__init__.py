"""What a long job needs of the system, whatever it computes.

device        where to compute, and in which precision
distributed   several processes, as torchrun starts them
checkpoint    RUN/checkpoint/NUMBER/: saved, verified, loaded
state         optimizers and random generators as named tensors
runlog        log.jsonl
tensorboard   the log's numbers for TensorBoard
lock          one writer per run folder
interruption  Ctrl-C and SIGTERM, deferred until a step or a file is complete
environment   versions, hardware and commit, for metrics.json
console       printing that never ends a run, warnings in one line
command       errors in one line and exit statuses, for every command

Nothing here knows a task or a dataset.
"""
