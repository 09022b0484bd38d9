"""Wrong PCGrad, as students hand it in."""

WRONG = [
    ("            if product < 0:\n                g = g", "            g = g", "in conflict or not"),
    ("product < 0", "product > 0", "conflicts stay"),
    ("            if product < 0:", "            if gradients[i] @ gradients[j] < 0:",
     "test uses the original g_i"),
    ("product = g @ gradients[j]", "product = gradients[i] @ gradients[j]",
     "starts from the original g_i"),
    ("    total = torch.zeros_like(gradients[0])\n", "    gradients = gradients.clone()\n"
     "    total = torch.zeros_like(gradients[0])\n", None),
    ("        g = gradients[i].clone()", "        g = gradients[i]", None),
    ("        total = total + g\n", "        gradients[i] = g\n        total = total + g\n",
     "changed its input `gradients`"),
    ("    return total", "    return total / len(gradients)", "averaged, not added"),
    ("(gradients[j] @ gradients[j])", "(gradients[j] @ gradients[j]).sqrt()", "by ‖g_j‖, not by ‖g_j‖²"),
    ("(gradients[j] @ gradients[j])", "(g @ g)", "by ‖g_i‖², not by ‖g_j‖²"),
    ("(gradients[j] @ gradients[j])", "(gradients[i] @ gradients[i])", "by ‖g_i‖², not by ‖g_j‖²"),
    ("g = g - product", "g = g + product", "added, not subtracted"),
    ("for j in others:", "for j in [*others, i]:", None),
    ("for j in others:", "for j in sorted(others):", "`order` is not followed"),
    ("    return total", "    return gradients.sum(0)", "nothing is projected"),
    ("g = g - product / (gradients[j] @ gradients[j]) * gradients[j]", "g = g - gradients[j]",
     "all of g_j is subtracted"),
    ("(gradients[j] @ gradients[j])", "(gradients[j] @ gradients[j] + 1e-12)", "so short gradients"),
    ("if product < 0:", "if product < -1e-8:", "so short gradients keep their conflicts"),
    ("    total = torch.zeros_like(gradients[0])\n", "    gradients = gradients.double()\n"
     "    total = torch.zeros_like(gradients[0])\n", "has type float64, expected float32"),
]
