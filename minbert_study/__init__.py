"""The study edition: write BERT yourself, and be told where it goes wrong.

    folder/      the files that a student gets, one per exercise
    exercises/   what each is checked for, its classic mistakes and its hints
    exercise     what an exercise is; the library's own answer to it; that answer with a mistake
    rules        what a student's file may use
    worker       a student's code in a process of its own, within limits
    judging      compares results with the expected ones: the first difference, and its mistake
    checking     one exercise or all, progress, messages
    watching     a tiny model for checks of training, and what a step does with it
    training     the main job with the student's own parts
    grading      many folders, for teachers

    python -m minbert_study start my-bert
    python -m minbert_study check my-bert attention

The answers are the library itself. Nothing imports this package.
"""
