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
    ("for j in others:", "for j in [*others, i]:", None),
    ("    total = torch.zeros_like(gradients[0])\n", "    gradients = gradients.double()\n"
     "    total = torch.zeros_like(gradients[0])\n", "has type float64, expected float32"),
]
