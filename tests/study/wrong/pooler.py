"""Wrong poolers, as students hand them in."""

WRONG = [
    ("projected.tanh()", "projected", "without the tanh"),
    ("projected.tanh()", "projected.sigmoid()", "a sigmoid is used instead"),
    ("projected.tanh()", "projected.relu()", "ReLU is used instead"),
    ("projected.tanh()", "torch.nn.functional.gelu(projected)", "GELU is used instead"),
    ("projected.tanh()", "projected.softmax(-1)", "output: "),
    ("self.pooler_dense(cls_states)", "self.pooler_dense(cls_states[:, 0])", "shapes there: cls_states"),
    ("self.pooler_dense(cls_states)", "self.pooler_dense(cls_states[0])",
     "has shape (2,), expected (1, 2)"),
    ("self.pooler_dense(cls_states)", "self.pooler_dense(cls_states.mean(0, keepdim=True))",
     "output"),
    ("self.pooler_dense(cls_states)",
     "torch.nn.Linear(cls_states.shape[-1], cls_states.shape[-1])(cls_states)", "output: "),
    ("self.pooler_dense(cls_states)", "self.pooler(cls_states)", "has no attribute 'pooler'"),
    ("self.pooler_dense(cls_states)", "self.pooler_dense(cls_states.detach())", "is something detached"),
    ("    projected = ", "    cls_states.clamp_(-1, 1)\n    projected = ", "changed its input `cls_states`"),
    ("    return projected", "    projected", "returned nothing"),
    ("self.pooler_dense(cls_states)", "self.pool(cls_states)", "calls itself endlessly"),
    ("self.pooler_dense(cls_states)",
     "torch.addmm(self.pooler_dense.bias, cls_states, self.pooler_dense.weight.t())", None),
]
