"""report.html: one self-contained page per run.

    page             HTML: headings, tables, figures
    text             numbers, intervals and Markdown tables as text
    figures          matplotlib figures
    run_report       the report of a run
    dev_set_report   its sections on the dev set
    ensemble_report  the page of several runs as one model

It imports multitask.analysis. runs, experiments, pretraining, minbert_study and the commands
analysis and ensemble import it.
"""
