"""The paper's Table 1, and the question whether surgery helps: `python -m multitask.experiments`.

grid             the graph of trainings behind Table 1, and what it collects
presets          flags and settings of each stage
request          a folder takes results of one request only
table            Table 1 as Markdown, CSV and JSON
claims           the paper's claims as differences between cells of Table 1
grid_report      report.html of a grid
question         does surgery help? control arms paired by seed
arms             their table, and one arm of one seed, step by step
question_tables  the question's tables, and question.md
question_report  its report.html

table <- grid_report <- grid; arms <- question_tables <- question_report <- question. grid also
imports presets and claims; grid and question import request.
"""
