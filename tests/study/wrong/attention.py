"""Wrong attention, as students hand it in: what is edited in the right solution, and what they are told."""

WRONG = [
    (" / math.sqrt(query.shape[-1])", "", "without the division by √d"),
    ("math.sqrt(query.shape[-1])", "query.shape[-1]", "divided by d in place of √d"),
    ("/ math.sqrt(query.shape[-1])", "* query.shape[-1] ** 0.5", "multiplied by √d"),
    ("query.shape[-1])", "query.size(2))", "d is the number of tokens"),
    ("key.transpose(-1, -2)", "key", "Expected size for first two dimensions"),
    ("key.transpose(-1, -2)", "key.T", "RuntimeError"),
    ("    return F.dropout", "    F.dropout", "is a `return` missing"),
    ("torch.softmax(scores, dim=-1)", "scores.detach().softmax(-1)", "is something detached"),
    ("torch.softmax(scores, dim=-1)", "torch.softmax(scores.float(), dim=-1)", "float32 and float64 tensors are mixed"),
    ("    scores = query", "    query += 1e-3\n    scores = query", "changed its input `query`"),
    ("F.dropout(weights, dropout) @ value", "F.dropout2d(weights, dropout) @ value",
     "share of keys that all queries lose"),
    ("F.dropout(weights, dropout)", "weights * F.dropout(torch.ones_like(weights[:, :1]), dropout)",
     "share of heads that lose the same"),
    ("F.dropout(weights, dropout)", "weights * F.dropout(torch.ones_like(weights[:1]), dropout)",
     "share of sentences that lose the same"),
]
