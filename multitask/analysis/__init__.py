"""Numbers about results: scores, intervals, conflicts. Only the command below writes files.

    comparisons    arms over seeds: paired differences, Holm, verdicts; the paired bootstrap
    intervals      95 % intervals of shares, means and correlations; the bootstrap over examples
    dev_set        where a model succeeds and fails on the dev set (the paper's section 6)
    log            speed and gradient conflicts from a run's log
    probe          gradient conflicts of one model, layer by layer, against sampling noise
    paper_results  the paper's own numbers
    __main__       python -m multitask.analysis RUN

The modules import multitask.model and what that imports; the command imports reports and runs
too. reports, runs, experiments and multitask.ensemble import the modules.
"""
