"""Wrong encoders, as students hand them in."""

POSITIONS = "torch.arange(seq).unsqueeze(0).repeat(batch, 1)"
MASKED = "    if attention_mask is None:\n        attention_mask = torch.ones(batch, seq)\n"
TYPED = ("    if token_type_ids is None:\n"
         "        token_type_ids = torch.zeros(batch, seq, dtype=torch.long)\n")

WRONG = [
    (POSITIONS, "torch.arange(1, seq + 1).unsqueeze(0).repeat(batch, 1)", "counted from 1"),
    (POSITIONS, "torch.zeros_like(input_ids)", "all positions are 0"),
    (POSITIONS, "(attention_mask.long().cumsum(1) - 1).clamp(min=0)", "count only the real tokens. Count"),
    (POSITIONS, "attention_mask.long().cumsum(1) * attention_mask.long()", "RoBERTa"),
    (POSITIONS, "torch.arange(batch).unsqueeze(0)", "shapes there: input_ids"),
    (POSITIONS, "torch.arange(seq - 1, -1, -1).unsqueeze(0).repeat(batch, 1)",
     "position_ids into embeddings"),
    (POSITIONS, "torch.arange(batch * seq).view(batch, seq)", "position_ids into embeddings"),
    (POSITIONS, "torch.arange(seq)", None),
    (POSITIONS, "torch.arange(seq)[None]", None),
    ("attention_mask.bool()", "token_type_ids.bool()", "mask into layer 0"),
    (MASKED, "", "'NoneType' object has no attribute 'bool'"),
    (TYPED, "", "NoneType"),
    ("torch.zeros(batch, seq, dtype=torch.long)", "torch.zeros(batch, seq)", "Expected tensor for argument"),
    ("attention_mask.bool()", "attention_mask", "only supports boolean masks"),
    ("attention_mask.bool()", "(1 - attention_mask) * -10000.0", "hidden = layer(hidden, mask)"),
    ("attention_mask.bool()", "attention_mask == 1", None),
    ("attention_mask.bool()", "attention_mask.bool() if (attention_mask == 0).any() else None", None),
    ("BertOutput(hidden, self.pool(cls))", "hidden, self.pool(cls)",
     "yours 'tuple', expected 'BertOutput'"),
    ("BertOutput(hidden, self.pool(cls))", "{'last_hidden_state': hidden, 'pooler_output': self.pool(cls)}",
     "expected 'BertOutput'"),
    ("    return BertOutput", "    BertOutput", "returned nothing"),
    ("    mask = ", "    attention_mask *= 2\n    mask = ", "changed its input `attention_mask`"),
    ("    cls = ", "    hidden = hidden * mask[:, :, None]\n    cls = ", None),
    ("    hidden = self.embeddings(", "    with torch.no_grad():\n      hidden = self.embeddings(",
     "is something detached"),
    ("    hidden = self.embeddings(", "    input_ids = input_ids * mask\n    hidden = self.embeddings(", None),
]
