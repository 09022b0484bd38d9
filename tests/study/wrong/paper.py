"""Wrong Eq. 2–5, as students hand them in."""

WRONG = [
    ("            new = new", "            if gradients[i] @ gradients[j] < 0:\n"
     "                new = new", "only conflicts are projected"),
    ("            new = new", "            if gradients[i] @ gradients[j] > 0:\n"
     "                new = new", "only pairs that agree"),
    ("gradients[i] @ gradients[j] / square", "new @ gradients[j] / square",
     "that earlier ones have changed"),
    ("    projected = []\n", "    projected, gradients = [], gradients.clone()\n", None),
    ("        projected.append(new)\n    return sum(projected)",
     "        gradients[i] = new\n    return gradients.sum(0)", "changed its input `gradients`"),
    ("    projected = []\n    for i in range(len(gradients)):\n        new = gradients[i].clone()\n",
     "    projected, gradients = [], gradients.clone()\n    for i in range(len(gradients)):\n"
     "        new = gradients[i]\n", None),
    ("    return sum(projected)", "    return torch.stack(projected)", "has shape (2, 2), expected (2,)"),
    ("    projected = []", "    gradients = gradients.double()\n    projected = []",
     "has type float64, expected float32"),
]
