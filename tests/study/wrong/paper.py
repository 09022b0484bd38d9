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
    ("    projected = []\n    for i in range(len(gradients)):\n        new = gradients[i].clone()\n"
     "        for j in range(len(gradients)):\n            square = gradients[j] @ gradients[j]\n"
     "            if j == i or square == 0:\n                continue\n"
     "            new = new - gradients[i] @ gradients[j] / square * gradients[j]\n"
     "        projected.append(new)\n    return sum(projected)",
     "    rows = gradients.clone()\n    for i in range(len(rows)):\n        for j in range(len(rows)):\n"
     "            if j != i and rows[j].any():\n"
     "                rows[i] -= rows[i] @ rows[j] / (rows[j] @ rows[j]) * rows[j]\n"
     "    return rows.sum(0)", "already projected. g_j must be the original"),
    ("        projected.append(new)\n    return sum(projected)",
     "        projected.append(new)\n        original, gradients = gradients, gradients.clone()\n"
     "        gradients[i] = new\n    return sum(projected)", "until the end"),
    ("    return sum(projected)", "    return sum(projected) / len(projected)", "Eq. 5 adds them"),
    ("    return sum(projected)", "    return torch.stack(projected)", "has shape (2, 2), expected (2,)"),
    ("    return sum(projected)", "    return projected[-1]", "last task's projected gradient"),
    ("new = new - ", "new = new + ", "added, not subtracted"),
    ("/ square", "/ square.sqrt()", "by ‖g_j‖, not by ‖g_j‖²"),
    (" / square", "", "not divided by ‖g_j‖² at all"),
    ("/ square", "/ (gradients[i] @ gradients[i])", "by ‖g_i‖², not by ‖g_j‖²"),
    ("/ square", "/ (gradients[i].norm() * gradients[j].norm())", "as in a cosine"),
    ("j == i or square == 0", "square == 0", "onto itself as well"),
    ("j == i or square == 0", "j <= i or square == 0", "used only once"),
    ("            new = new - gradients[i] @ gradients[j] / square * gradients[j]\n",
     "            pass\n", "nothing is projected"),
    ("j == i or square == 0", "j == i", "0/0 is NaN"),
    ("            if j == i or square == 0:", "            square = square + 1e-8\n"
     "            if j == i:", "Skip zero gradients"),
    ("square == 0", "square < 1e-8", "a short gradient counts as zero"),
    ("        for j in range(len(gradients)):\n            square = gradients[j] @ gradients[j]\n"
     "            if j == i or square == 0:\n                continue\n"
     "            new = new - gradients[i] @ gradients[j] / square * gradients[j]\n",
     "        rest = gradients.sum(0) - gradients[i]\n        if rest.any():\n"
     "            new = new - gradients[i] @ rest / (rest @ rest) * rest\n",
     "onto the sum of the others"),
    ("    projected = []", "    gradients = gradients.double()\n    projected = []",
     "has type float64, expected float32"),
    ("square == 0", "square < 1e-6", "a short gradient counts as zero"),
    ("square == 0", "square.sqrt() < 1e-6", "a short gradient counts as zero"),
    ("j == i or square == 0:", "j == i:\n                continue\n            square = square + 1e-12"
     "\n            if False:", "a short gradient counts as zero"),
    ("            if j == i or square == 0:\n                continue\n"
     "            new = new - gradients[i] @ gradients[j] / square * gradients[j]\n",
     "            unit = gradients[j] / gradients[j].norm()\n            if j != i:\n"
     "                new = new - gradients[i] @ unit * unit\n", "0/0 is NaN"),
]
