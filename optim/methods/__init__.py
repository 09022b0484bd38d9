"""Every surgery method besides those of optim/surgery.py, by family.

    descent     directions along which no task's loss rises: MGDA, CAGrad, UPGrad, DualProj
    fairness    equal shares: normalised, IMTL-G, ConFIG, Nash-MTL, FairGrad, Aligned-MTL
    vaccine     PCGrad with targets: GradVac
    losses      weights from the losses: uncertainty, DWA, FAMO, GradNorm
    controls    random and constant weights
    quadratic   the two small problems behind them, solved to rounding
    choosing    SURGERY, the table of all; Method, one by its name and options

docs/explanation/methods.md compares them. SDMGrad, MoDo, MoCo, DB-MTL and GradDrop are not
functions of the Gram matrix and the losses, so they are left out.
"""

from .choosing import SURGERY, Method, SurgeryError

__all__ = ["SURGERY", "Method", "SurgeryError"]
